"""Sequence classification: what a model is worth on a task of its domain."""
