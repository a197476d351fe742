"""The output of a benchmark: one table on the screen, and all results as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out under a header; the first column is left-aligned, the others right-aligned."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result where the user asked for it."""
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def spread(values: Sequence[float]) -> str:
    """Return the smallest and the largest of a few numbers as text."""
    return f"{min(values):.2f} to {max(values):.2f}"


def megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"
