"""Sums over some steps, and the means that are logged."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Window:
    """Sums over some steps in a row, over all processes.

    `TrainState.window` is replaced after each log line, and `TrainState.totals` never is.

    Attributes:
        sums: The sums, each under the name that its mean has in metrics.jsonl.
        counts: The number of targets that each sum is divided by.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, sums: Mapping[str, float], counts: Mapping[str, int]) -> None:
        """Add the sums of a step and what each is divided by, both under the same names."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + counts[name]

    def means(self) -> dict[str, float]:
        """Return the sums divided by their counts; 0 if nothing was counted."""
        return {name: value / max(self.counts[name], 1) for name, value in self.sums.items()}
