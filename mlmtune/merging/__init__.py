"""Merging a base model with what runs made of it, and measuring what that keeps and forgets."""
