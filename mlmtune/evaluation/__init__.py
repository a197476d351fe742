"""Measurements on fixed masks: perplexity, accuracy, filled-in examples."""
