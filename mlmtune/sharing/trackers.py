"""Experiment trackers, through Accelerate: one that fails is told and dropped, and the run goes on.

To add one: a name in `config.TrackerName`, and a row in `TRACKERS`.
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
from mlmtune.redaction import redacted
from mlmtune.shell import pip_install

FAILURES = (Exception, SystemExit)
"""What a tracker may fail with: some end the program where nobody is logged in."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Attributes:
        project: what it stands under.
        name: of the run.
        folder: the run's directory, for trackers that write files.
        id: stays the same over all sittings of a run.
        step: steps taken before this sitting; 0 at the beginning.
        tracked: up to which step an earlier sitting, which was stopped hard, has told each kind of
            metrics (see `kind_of`); this one takes the steps after `step` again.
    """

    project: str
    name: str
    folder: Path
    id: str
    step: int
    tracked: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A tracker.

    Attributes:
        module: what must be there to import.
        package: what to install for it.
        mend: what to do where it is installed and cannot start.
        arguments: of Accelerate's class, for a run.
        show: the command that shows it; None for those that say so themselves.
        forgets: it hides the steps of an earlier sitting that are sent to it again.
    """

    module: str
    package: str
    mend: str
    arguments: Callable[[TrackedRun], tuple[tuple[Any, ...], dict[str, Any]]]
    show: Callable[[TrackedRun], str] | None = None
    forgets: bool = False


TRACKERS: Mapping[str, Kind] = {
    "tensorboard": Kind(
        "tensorboard", "mlmtune[tensorboard]", "see that run.output_dir can be written",
        # The step before the first is measured again where there was no checkpoint yet.
        lambda run: ((run.name, str(run.folder / "tensorboard")),
                     {"purge_step": run.step + 1 if run.step else 0}),
        lambda run: f"tensorboard --logdir {run.folder / 'tensorboard'}",
        forgets=True,
    ),
    "wandb": Kind(
        "wandb", "wandb", "wandb login, or set WANDB_MODE=offline",
        lambda run: ((run.project,), {"name": run.name, "id": run.id, "resume": "allow",
                                      "dir": str(run.folder)}),
    ),
    "trackio": Kind(
        "trackio", "mlmtune[trackio]", "see that TRACKIO_DIR can be written",
        lambda run: ((run.project,), {"name": run.name, "embed": False, "private": True,
                                      "resume": "allow" if run.step else "never"}),
        lambda run: f"trackio show --project {shlex.quote(run.project)}",
    ),
    "swanlab": Kind(
        "swanlab", "swanlab", "swanlab login, or set SWANLAB_MODE=offline",
        lambda run: ((run.project,), {"experiment_name": run.name}),
    ),
    "mlflow": Kind(
        "mlflow", "mlflow", "set MLFLOW_TRACKING_URI to a server that can be reached",
        lambda run: ((run.project,), {"run_name": run.name}),
    ),
    "comet_ml": Kind(
        "comet_ml", "comet_ml", "comet login, or set COMET_API_KEY",
        lambda run: ((run.project,), {}),
    ),
    "aim": Kind(
        "aim", "aim", "see that run.output_dir can be written",
        lambda run: ((run.name, str(run.folder)), {"experiment": run.project}),
    ),
    "clearml": Kind(
        "clearml", "clearml", "run clearml-init",
        lambda run: ((run.project,), {"task_name": run.name}),
    ),
    "dvclive": Kind(
        "dvclive", "dvclive", "see that run.output_dir can be written",
        lambda run: ((run.name,), {"dir": str(run.folder / "dvclive")}),
    ),
}  # fmt: skip


class Trackers:
    """The trackers of a run that work; none in processes other than the first.

    Args:
        console: where it is told that one fails.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started: dict[str, GeneralTracker] = {}
        self._tracked: Mapping[str, int] = {}

    def start(self, config: TrackingConfig, run: TrackedRun, settings: Mapping[str, Any]) -> None:
        """Start all that the config names, and tell them the settings.

        Args:
            config: names them.
            run: which run it is.
            settings: the whole config; they are told it without secrets.
        """
        self._tracked = run.tracked
        values = dict(flattened(redacted(settings)))
        for name in dict.fromkeys(config.with_):
            kind = TRACKERS[name]
            if find_spec(kind.module) is None:
                self._drop(name, f"is not installed; {pip_install(kind.package)}")
                continue
            with self._surviving(name, "cannot start", kind.mend), _greeting(kind):
                positional, named = kind.arguments(run)
                tracker = LOGGER_TYPE_TO_CLASS[name](*positional, **named)
                tracker.start()
                self._started[name] = tracker
                tracker.store_init_configuration(values)
            if name in self._started:
                show = f"; to see it: {kind.show(run)}" if kind.show else ""
                self._console.say(f"tracked by {name}{show}")

    def log(self, record: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, as `train/*` or, if it is of an evaluation, as `eval/*`."""
        kind, step = kind_of(record), record["step"]
        values = {
            f"{kind}/{name.removeprefix('eval_')}": value
            for name, value in record.items()
            if name != "step"
        }
        self._log(values, step, is_known=step <= self._tracked.get(kind, -1))

    def log_results(self, results: Mapping[str, Any], step: int) -> None:
        """The content of all_results.json, as `result/*`."""
        self._log({f"result/{name}": value for name, value in results.items()}, step)

    def finish(self) -> None:
        """Let each write out what it holds."""
        for name, tracker in list(self._started.items()):
            remark = "its last metrics may be missing"
            with self._surviving(name, "cannot finish", remark), _greeting(TRACKERS[name]):
                tracker.finish()
        self._started.clear()

    def _log(self, record: Mapping[str, Any], step: int, *, is_known: bool = False) -> None:
        numbers = {
            name: float(value)
            for name, value in flattened(record)
            if isinstance(value, int | float)
        }
        for name, tracker in list(self._started.items()):
            if is_known and not TRACKERS[name].forgets:
                continue
            with self._surviving(name, "has failed", "it has what came before"):
                tracker.log(numbers, step=step)

    @contextmanager
    def _surviving(self, name: str, what: str, remark: str) -> Iterator[None]:
        """Tell and drop a tracker that fails, whatever it fails with."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except FAILURES as error:
            self._drop(name, f"{what} ({_reason(error)}): {remark}")

    def _drop(self, name: str, what: str) -> None:
        self._started.pop(name, None)
        self._console.say(f"tracking.with: {name} {what}; training goes on without it")


def _greeting(kind: Kind) -> AbstractContextManager[Any]:
    """Where a tracker greets at length; one that may have a question must be heard."""
    return nullcontext() if kind.show is None else redirect_stdout(io.StringIO())


def kind_of(record: Mapping[str, Any]) -> str:
    """What a line of metrics.jsonl is of: `eval` or `train`. A step has at most one of each."""
    return "eval" if any(name.startswith("eval_") for name in record) else "train"


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists, each under its dotted name."""
    if isinstance(value, Mapping):
        inner: Any = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    else:
        yield name, value
        return
    for key, entry in inner:
        yield from flattened(entry, f"{name}.{key}" if name else str(key))


def _reason(error: BaseException) -> str:
    said = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
