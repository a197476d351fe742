"""Documents as tokens: one flat array on disk, and chunks as views of it."""
