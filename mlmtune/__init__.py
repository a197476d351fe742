"""mlmtune adapts a pretrained masked language model to a domain's text, and shows the effect."""

__version__ = "0.1.0"
