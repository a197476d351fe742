"""The documents of the corpus: found, read, cleaned, deduplicated, split."""
