"""Whether adaptation helped: base against adapted, measured on the same masks."""
