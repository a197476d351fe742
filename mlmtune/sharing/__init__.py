"""What leaves a run for others: model cards, repositories on the hub, trackers."""
