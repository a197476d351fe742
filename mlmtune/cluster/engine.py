"""ClusterEngine: runs the work of a corpus as tasks on a cluster, and waits for them."""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlmtune.cluster.stage import Stage, divide
from mlmtune.config import EngineConfig
from mlmtune.console import Console
from mlmtune.corpus.engine import Engine, Item, Result, Work
from mlmtune.errors import ConfigError, MlmtuneError, ResourceError, explaining_failures
from mlmtune.printable import counted

NUM_TASKS = 256
TASKS_PER_WORKER = 4
"""So that a slow task does not keep all the others waiting at the end."""
ATTEMPTS = 3
"""How often a task is submitted that dies."""
SHORTEST_POLL, LONGEST_POLL = 0.5, 10.0
"""Seconds between two looks at the tasks, which become longer."""
SECONDS_PER_LINE = 60.0
"""How often a line says how far a stage is, where no progress bar is shown."""


class Jobs(ABC):
    """The tasks of a stage that a cluster runs."""

    name: str
    """What they are called in messages, such as "job 12 of Slurm"."""

    @abstractmethod
    def why_waiting(self) -> str | None:
        """Return None if all tasks have ended, else why none can run; empty if some can.

        Raises:
            ResourceError: The cluster will never run them.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End the tasks."""


class Cluster(ABC):
    """What runs tasks."""

    can_leave: bool
    """Whether tasks go on when the command that submitted them has ended."""

    @abstractmethod
    def submit(self, stage: Stage, num_tasks: int) -> Jobs:
        """Submit the tasks of a stage that have not ended well.

        Raises:
            MlmtuneError: The cluster refuses them, or does not answer.
        """

    @abstractmethod
    def left(self, stage: Stage) -> Jobs | None:
        """Return the jobs that an earlier command submitted; None if there are none."""


@dataclass
class ClusterEngine(Engine):
    """An engine that cuts work into tasks.

    Attributes:
        config: The number of tasks, and what Ctrl-C does.
        cluster: What runs the tasks.
        folder: The folder of the stages of a corpus, which all machines see.
        shared_folders: Other folders that all machines must see.
        console: Shows progress.
    """

    config: EngineConfig
    cluster: Cluster
    folder: Path
    shared_folders: tuple[Path, ...]
    console: Console
    is_remote: bool = field(default=True, init=False)

    def map(
        self,
        function: Callable[[Item, Any], Result],
        items: Sequence[Item],
        shared: Any,
        work: Work,
        *,
        sizes: Sequence[int],
    ) -> Generator[Result, None, None]:
        """Yield the results once all tasks have ended.

        Raises:
            MlmtuneError: A task raised it, or died three times; or the cluster refuses the work.
        """
        if not items:
            return
        if work.is_ours:
            raise ConfigError(
                "formats that a program adds are not known on other machines; leave --on out"
            )
        slices = divide(sizes, self._num_tasks())
        name = f"{work.what.replace(' ', '-')}-{secrets.token_hex(3)}"
        stage = Stage(self.folder / name)
        with explaining_failures(self.folder, "engine.folder"):
            stage.folder.mkdir(parents=True)
            with FileLock(stage.lock):
                tasks = [items[part] for part in slices]
                of_tasks = [sum(sizes[part]) for part in slices]
                stage.write(function, tasks, shared, work, of_tasks, self.shared_folders)
                with self._deleting(stage):
                    self._run(stage)
                    yield from stage.results(len(slices))

    @contextmanager
    def _deleting(self, stage: Stage) -> Iterator[None]:
        """Delete a stage at the end of a block, unless its tasks go on or their logs say why not.

        The logs of tasks that were interrupted say nothing.
        """
        try:
            yield
        except BaseException as error:
            is_fault = isinstance(error, MlmtuneError) and stage.has_logs()
            if not (is_fault or self._leaves(error)):
                stage.delete()
            raise
        stage.delete()

    def wait_for_left_tasks(self) -> None:
        """Wait for the tasks that an earlier command left, so that none is run twice at once.

        Raises:
            ResourceError: The cluster will never run them.
        """
        for folder in sorted(self.folder.glob("*/stage.json")):
            stage = Stage(folder.parent)
            with suppress(Timeout), FileLock(stage.lock, timeout=0):
                jobs = self.cluster.left(stage)
                if jobs is not None and jobs.why_waiting() is not None:
                    self.console.say(f"waiting for {jobs.name}, which an earlier command left")
                    self._wait(jobs, stage)
                stage.delete()

    def _num_tasks(self) -> int:
        if self.config.tasks is not None:
            return self.config.tasks
        workers = self.config.workers
        return NUM_TASKS if workers is None else TASKS_PER_WORKER * workers

    def _run(self, stage: Stage) -> None:
        """Run all tasks of a stage; those that die are run again.

        Raises:
            MlmtuneError: A task raised it, or died three times.
        """
        what, num_tasks = stage.work.what, len(stage.sizes)
        for _ in range(ATTEMPTS):
            left = num_tasks - len(stage.finished())
            jobs = self.cluster.submit(stage, num_tasks)
            again = "" if left == num_tasks else " that died, again"
            self.console.say(
                f"{what}: {counted(left, 'task')}{again}, {jobs.name} (logs in "
                f"{stage.engine_folder})"
            )
            self._wait(jobs, stage)
            if len(stage.finished()) == num_tasks:
                break
        else:
            raise self._died(stage, num_tasks)
        hosts = stage.hosts(set(range(num_tasks)))
        where = ", ".join(f"{host} ({number})" for host, number in hosts.items())
        self.console.say(f"{what}: done by {where}")

    def _wait(self, jobs: Jobs, stage: Stage) -> None:
        """Wait until jobs have ended, or a task has failed for good.

        Raises:
            MlmtuneError: A task raised it, or the cluster will never run the tasks.
        """
        pause = SHORTEST_POLL
        try:
            with _Progress(self.console, stage) as progress:
                while (reason := jobs.why_waiting()) is not None:
                    progress.show(reason)
                    time.sleep(pause)
                    pause = min(pause * 1.2, LONGEST_POLL)
                progress.show("")
        except BaseException as error:
            if self._leaves(error):
                self.console.say(f"{jobs.name} goes on; the same command waits for it")
            else:
                jobs.cancel()
                self.console.say("the tasks were cancelled; what is finished is kept")
            raise

    def _leaves(self, error: BaseException) -> bool:
        is_interrupt = not isinstance(error, MlmtuneError)
        return is_interrupt and self.config.on_interrupt == "leave" and self.cluster.can_leave

    def _died(self, stage: Stage, num_tasks: int) -> MlmtuneError:
        """Return the error for tasks that died in every attempt."""
        missing = sorted(set(range(num_tasks)) - stage.finished())
        if not stage.hosts(set(range(num_tasks))):
            return ConfigError(
                f"{stage.folder}: no task wrote anything there, so the machines of the cluster do "
                "not see the folder, or cannot start this Python; set engine.folder (or "
                "tokenization.cache_dir) to a shared folder, and engine.setup to what makes the "
                f"environment; logs, if any, are in {stage.engine_folder}"
            )
        where = ", ".join(stage.hosts(set(missing)))
        return ResourceError(
            f"{counted(len(missing), 'task')} died {ATTEMPTS} times (at last on {where}), most "
            "likely for lack of memory (engine.memory_gb) or time (engine.time_limit); see "
            f"{stage.engine_folder / 'logs' / f'task_{missing[0]:05d}.log'}; what is finished is "
            "kept"
        )


class _Progress:
    """Shows how far the tasks of a stage are, and where they run.

    Args:
        console: A progress bar on a terminal; elsewhere a line now and then.
        stage: The stage.
    """

    def __init__(self, console: Console, stage: Stage) -> None:
        work = stage.work
        self._console, self._stage = console, stage
        self._what, self._sizes = work.what, stage.sizes
        self._bar = console.bar(total=sum(self._sizes), unit=work.unit, what=work.what)
        self._bar.leave = work.keeps_bar
        self._last_line = time.monotonic()
        self._reason = ""

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, reason: str) -> None:
        """Show the state, and why nothing runs if that is so.

        Raises:
            MlmtuneError: A task raised it.
        """
        if (error := self._stage.error()) is not None:
            raise error
        finished = self._stage.finished()
        running = self._stage.hosts(set(range(len(self._sizes))) - finished)
        where = ", ".join(f"{host} {number}" for host, number in running.items())
        self._bar.n = sum(self._sizes[number] for number in finished)
        self._bar.set_postfix_str(where or reason, refresh=True)
        if reason and reason != self._reason and not running:
            self._console.say(f"{self._what}: waiting ({reason})")
        self._reason = reason
        if not self._console.shows_bars and time.monotonic() - self._last_line > SECONDS_PER_LINE:
            self._last_line = time.monotonic()
            done = f"{len(finished):,} of {counted(len(self._sizes), 'task')} done"
            self._console.say(f"{self._what}: {done}; running on {where or 'no machine'}")
