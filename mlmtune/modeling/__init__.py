"""The pretrained model: loading it, and running it without needless work."""
