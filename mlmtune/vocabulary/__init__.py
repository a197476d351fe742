"""The domain's own words: entries that are added to a tokenizer, and their rows in the model."""
