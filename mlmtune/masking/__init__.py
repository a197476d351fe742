"""Which tokens are predicted, and what the model sees instead of them."""
