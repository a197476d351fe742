"""The training run: its plan, its steps, its checkpoints, its directory."""
