"""The output of a benchmark: a table on the screen, and all results as JSON."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlmtune import tables
from mlmtune.files import write_text

STARTED = time.perf_counter()


def stage(what: str) -> None:
    """Print what is done and when, for those who wait, or who ask where the time went."""
    print(f"{what} after {time.perf_counter() - STARTED:.0f} s", flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(tables.table([header, *rows]))


def write_json(path: Path | None, **result: Any) -> None:
    """Write a result to the file of `--json`, if there is one."""
    if path is not None:
        write_text(path, json.dumps(result, indent=2) + "\n")


def spread(values: Sequence[float]) -> str:
    """Return the range of a few numbers as text."""
    return f"{min(values):.2f} to {max(values):.2f}"


def megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` has written."""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result
