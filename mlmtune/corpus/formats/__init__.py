"""Formats: a module for each, from a path to the records of one file."""
