"""A config for text and a model that are named on the command line."""
