"""Which tokens are predicted, and what the model sees in their place."""
