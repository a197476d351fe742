"""What the tests of faults share: a run that meets none, and children that meet one."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import child
import pytest
from runs import Run, Runs
from scenario import SECTIONS

TIMEOUT_SECONDS = 60

# Its children start from a process that has imported everything and computed nothing, so that
# they start at once, and no thread of this process is missing in them.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["mlmtune.cli", "mlmtune.training.loop", "transformers.models.bert.modeling_bert"]
)


@dataclass
class Child:
    """A process that runs the command line."""

    process: BaseProcess
    connection: Connection
    output: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def tells(self) -> Any:
        """What it says next."""
        assert self.connection.poll(TIMEOUT_SECONDS), self.err
        return self.connection.recv()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def exit_code(self) -> int:
        """Wait for its end; a signal that killed it is negative."""
        self.process.join(TIMEOUT_SECONDS)
        assert self.process.exitcode is not None
        return self.process.exitcode

    @property
    def out(self) -> str:
        return (self.output / "out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return (self.output / "err").read_text(encoding="utf-8")


@pytest.fixture
def start(runs: Runs, tmp_path: Path, token_cache: Path) -> Iterator[Callable[..., Child]]:
    """Starts `mlmtune train`, or another command, on the run of these tests, or on a name's."""
    children: list[Child] = []

    def start_child(
        *options: str, command: str = "train", fault: child.Prepare | None = None,
        name: str = "run", **sections: Any,
    ) -> Child:  # fmt: skip
        config = runs.config(name, **{**SECTIONS, **sections})
        output = tmp_path / f"child-{len(children)}"
        output.mkdir()
        mine, other = context.Pipe()
        process = context.Process(
            target=child.run,
            args=(
                [command, "--config", str(config), *options], fault, other, output,
                {"MLMTUNE_CACHE": str(token_cache)},
            ),
        )  # fmt: skip
        process.start()
        other.close()
        children.append(Child(process, mine, output))
        return children[-1]

    yield start_child
    for started in children:
        started.process.kill()
        started.process.join()
        started.process.close()
        started.connection.close()


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def expected(runs: Runs, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run that met no fault; trained once."""
    name = str(kept / "expected")
    if (kept / "expected").exists():
        return runs.at(name)
    with monkeypatch.context() as patch:
        # A store in the cache of the first test that asks would be there before its child starts.
        patch.setenv("MLMTUNE_CACHE", str(kept / "cache"))
        return runs.train(name, **SECTIONS)
