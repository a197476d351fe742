"""Experiment trackers, through Accelerate.

A tracker that fails is reported and dropped, and the run goes on. To add one: a name in
`config.TrackerName`, and a row in `TRACKERS`.
"""

import io
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from mlmtune.config import TrackingConfig
from mlmtune.console import Console
from mlmtune.errors import named
from mlmtune.redaction import redacted
from mlmtune.shell import pip_install

FAILURES = (Exception, SystemExit)
"""What a tracker may fail with: some call sys.exit() if nobody is logged in."""


@dataclass(frozen=True)
class TrackedRun:
    """A run, as trackers know it.

    Attributes:
        folder: The run's directory, for trackers that write files.
        id: The same for all sittings of a run.
        step: Steps that were taken before the run was resumed; 0 at the beginning.
        tracked: The last step of each kind of metrics (see `kind_of_metrics`) that was sent before
            the run was stopped. A run that was killed takes some of the steps after `step` again.
    """

    project: str
    name: str
    folder: Path
    id: str
    step: int
    tracked: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TrackerKind:
    """How one kind of tracker is started and shown.

    Attributes:
        module: The module that the tracker needs.
        package: The package to install for it.
        fix: What to do if it is installed but cannot start.
        arguments: Makes the arguments of Accelerate's class for a run.
        show: The command that shows the run; None for trackers that print it themselves.
        replaces_steps: Whether steps that are sent again replace the earlier ones.
    """

    module: str
    package: str
    fix: str
    arguments: Callable[[TrackedRun], tuple[tuple[Any, ...], dict[str, Any]]]
    show: Callable[[TrackedRun], str] | None = None
    replaces_steps: bool = False


TRACKERS: Mapping[str, TrackerKind] = {
    "tensorboard": TrackerKind(
        "tensorboard", "mlmtune[tensorboard]", "make sure that run.output_dir can be written",
        # Without a checkpoint the run begins again, and step 0 is evaluated once more.
        lambda run: ((run.name, str(run.folder / "tensorboard")),
                     {"purge_step": run.step + 1 if run.step else 0}),
        lambda run: f"tensorboard --logdir {run.folder / 'tensorboard'}",
        replaces_steps=True,
    ),
    "wandb": TrackerKind(
        "wandb", "wandb", "wandb login, or set WANDB_MODE=offline",
        lambda run: ((run.project,), {"name": run.name, "id": run.id, "resume": "allow",
                                      "dir": str(run.folder)}),
    ),
    "trackio": TrackerKind(
        "trackio", "mlmtune[trackio]", "make sure that TRACKIO_DIR can be written",
        lambda run: ((run.project,), {"name": run.name, "embed": False, "private": True,
                                      "resume": "allow" if run.step else "never"}),
        lambda run: f"trackio show --project {shlex.quote(run.project)}",
    ),
    "swanlab": TrackerKind(
        "swanlab", "swanlab", "swanlab login, or set SWANLAB_MODE=offline",
        lambda run: ((run.project,), {"experiment_name": run.name}),
    ),
    "mlflow": TrackerKind(
        "mlflow", "mlflow", "set MLFLOW_TRACKING_URI to a server that can be reached",
        lambda run: ((run.project,), {"run_name": run.name}),
    ),
    "comet_ml": TrackerKind(
        "comet_ml", "comet_ml", "comet login, or set COMET_API_KEY",
        lambda run: ((run.project,), {}),
    ),
    "aim": TrackerKind(
        "aim", "aim", "make sure that run.output_dir can be written",
        lambda run: ((run.name, str(run.folder)), {"experiment": run.project}),
    ),
    "clearml": TrackerKind(
        "clearml", "clearml", "run clearml-init",
        lambda run: ((run.project,), {"task_name": run.name}),
    ),
    "dvclive": TrackerKind(
        "dvclive", "dvclive", "make sure that run.output_dir can be written",
        lambda run: ((run.name,), {"dir": str(run.folder / "dvclive")}),
    ),
}  # fmt: skip


class Trackers:
    """The trackers of a run that work. Only the first process has any."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started: dict[str, GeneralTracker] = {}
        self._tracked: Mapping[str, int] = {}

    def start(self, config: TrackingConfig, run: TrackedRun, settings: Mapping[str, Any]) -> None:
        """Start the trackers that the config names, and send them the settings without secrets."""
        self._tracked = run.tracked
        values = dict(flattened(redacted(settings)))
        for name in dict.fromkeys(config.with_):
            kind = TRACKERS[name]
            if find_spec(kind.module) is None:
                self._drop(name, f"is not installed; {pip_install(kind.package)}")
                continue
            with self._surviving(name, "cannot start", kind.fix), _greeting(kind):
                positional, named = kind.arguments(run)
                tracker = LOGGER_TYPE_TO_CLASS[name](*positional, **named)
                tracker.start()
                self._started[name] = tracker
                tracker.store_init_configuration(values)
            if name in self._started:
                show = f"; to see it: {kind.show(run)}" if kind.show else ""
                self._console.say(f"tracked by {name}{show}")

    def log(self, record: Mapping[str, Any]) -> None:
        """Send a line of metrics.jsonl: as `eval/*` if it is an evaluation's, else as `train/*`."""
        values, kind = dict(record), kind_of_metrics(record)
        step = values.pop("step")
        named = {f"{kind}/{name.removeprefix('eval_')}": value for name, value in values.items()}
        self._log(named, step, is_known=step <= self._tracked.get(kind, -1))

    def log_results(self, results: Mapping[str, Any], step: int) -> None:
        """Send the content of all_results.json, as `result/*`."""
        self._log({f"result/{name}": value for name, value in results.items()}, step)

    def finish(self) -> None:
        """Let each tracker write what it has not written yet."""
        for name, tracker in list(self._started.items()):
            remark = "its last metrics may be missing"
            with self._surviving(name, "cannot finish", remark), _greeting(TRACKERS[name]):
                tracker.finish()
        self._started.clear()

    def _log(self, record: Mapping[str, Any], step: int, *, is_known: bool = False) -> None:
        leaves = flattened(record)
        numbers = {name: float(leaf) for name, leaf in leaves if isinstance(leaf, int | float)}
        for name, tracker in list(self._started.items()):
            if is_known and not TRACKERS[name].replaces_steps:
                continue
            with self._surviving(name, "has failed", "it has what came before"):
                tracker.log(numbers, step=step)

    @contextmanager
    def _surviving(self, name: str, what: str, remark: str) -> Iterator[None]:
        """Report and drop a tracker that fails, whatever it fails with."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except FAILURES as error:
            self._drop(name, f"{what} ({named(error)}): {remark}")

    def _drop(self, name: str, what: str) -> None:
        self._started.pop(name, None)
        self._console.say(f"tracking.with: {name} {what}; training goes on without it")


def _greeting(kind: TrackerKind) -> AbstractContextManager[Any]:
    """Hide a tracker's long greeting, but not if it may ask a question (a login)."""
    return nullcontext() if kind.show is None else redirect_stdout(io.StringIO())


def kind_of_metrics(record: Mapping[str, Any]) -> str:
    """Return the kind of a line of metrics.jsonl: `eval` or `train`. A step has one of each."""
    return "eval" if any(name.startswith("eval_") for name in record) else "train"


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings and lists, each with its dotted name."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from flattened(entry, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
