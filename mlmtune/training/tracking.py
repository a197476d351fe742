"""tracking.json: what trackers need to know of a run over all its sittings."""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from mlmtune.redaction import without_secrets
from mlmtune.sharing.trackers import TrackedRun, Trackers, kind_of_metrics
from mlmtune.training.run_dir import RunDir
from mlmtune.training.task import Settings

RECORD = "tracking.json"
"""Holds the `id` of the run for trackers, and the last step they have of each kind of metrics."""


def note_tracked(record: Mapping[str, Any], metrics: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of tracking.json with the last steps of metrics that trackers have."""
    tracked = dict(record.get("tracked", {}))
    for line in metrics:
        kind = kind_of_metrics(line)
        tracked[kind] = max(line["step"], tracked.get(kind, 0))
    return {**record, "tracked": tracked}


def start_trackers(
    trackers: Trackers, config: Settings, run: RunDir, record: Mapping[str, Any] | None, step: int
) -> None:
    """Start the trackers of the section `tracking`. Called by the main process.

    `record` is the tracking.json of the run that is resumed at a step; None for a new run.
    """
    tracking = config.tracking
    if not tracking.with_:
        return
    # Trackers take sittings with the same id for one run.
    known = {"id": uuid.uuid4().hex[:16], "tracked": {}, **(record or {})}
    run.write_json(RECORD, known)
    name = tracking.run_name or run.path.resolve().name
    tracked_run = TrackedRun(
        without_secrets(tracking.project), without_secrets(name), run.path, known["id"], step,
        known["tracked"],
    )  # fmt: skip
    trackers.start(tracking, tracked_run, config.model_dump())
