"""Start-up: how long a user waits for the first output, and for the first optimizer step.

The first step is that of the quickstart config with its text tokenized already and its first
evaluation shortened. Every command is a new process.
"""

import ctypes
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from interleaved import run_apart
from mlmtune.config_loading import shipped_configs
from options import CommandLine, main, workspace
from report import table, write_json

WRONG_CONFIG = "run: {output_dir: runs/none}\nmodle: {name_or_path: none}\n"
EVALUATED_CHUNKS = 16
IMPORTS = """
from mlmtune.commands.starting import importing_libraries
with importing_libraries():
    import mlmtune.commands.train
"""

PR_SET_PDEATHSIG = 1
"""The constant of `linux/prctl.h`."""
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
"""Loaded before any fork: a child of several threads must do next to nothing."""

MILESTONES = {"first evaluation": "before training:", "first step": "step 1/"}
"""The beginnings of the lines that `mlmtune train` prints after each milestone."""


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_number("--rounds", 5, "times each")
    return arguments


def end_with_parent() -> None:
    """Have the kernel end this process with its parent, even if the parent is killed (on Linux)."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def seconds_of(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False, preexec_fn=end_with_parent)
    return time.perf_counter() - started


def seconds_to_milestones(command: Sequence[str]) -> dict[str, float]:
    """Return the seconds after which a run prints each milestone; the last one ends it.

    Raises:
        RuntimeError: The run ended before the last milestone.
    """
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            for name, beginning in MILESTONES.items():
                if line.startswith(beginning):
                    seconds.setdefault(name, time.perf_counter() - started)
            if len(seconds) == len(MILESTONES):
                process.kill()
                return seconds
    raise RuntimeError("the run ended before its first step:\n" + "".join(lines))


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    python = sys.executable
    command = [python, "-m", "mlmtune"]
    with workspace() as folder:
        wrong = folder / "wrong.yaml"
        wrong.write_text(WRONG_CONFIG, encoding="utf-8")
        commands = {
            "python, nothing imported": [python, "-c", "pass"],
            "import mlmtune": [python, "-c", "import mlmtune"],
            "mlmtune --version": [*command, "--version"],
            "mlmtune --help": [*command, "--help"],
            "a config error": [*command, "train", "--config", str(wrong)],
            "imports of training": [python, "-c", IMPORTS],
        }
        seconds: dict[str, list[float]] = {name: [] for name in [*commands, *MILESTONES]}
        os.environ["MLMTUNE_CACHE"] = str(folder / "cache")
        training = _training_command(command, folder)
        seconds_to_milestones(training)  # fills the token cache
        for _ in range(options.rounds):
            for name, arguments in commands.items():
                seconds[name].append(seconds_of(arguments))
            for name, value in seconds_to_milestones(training).items():
                seconds[name].append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        [name, f"{medians[name]:.2f}", f"{min(values):.2f}", f"{max(values):.2f}"]
        for name, values in seconds.items()
    ]
    print(f"seconds since the start of the process, {options.rounds} times, {machine['device']}")
    print(table(["command", "median", "least", "most"], rows))
    write_json(options.json, benchmark="startup", seconds=seconds, medians=medians, machine=machine)


def _training_command(command: Sequence[str], folder: Path) -> list[str]:
    return [
        *command, "train", "--config", str(shipped_configs()["quickstart"]), "--overwrite",
        f"run.output_dir={folder / 'run'}", f"evaluation.max_chunks={EVALUATED_CHUNKS}",
        "evaluation.mask_draws=1",
        "training.log_every=1",
    ]  # fmt: skip


if __name__ == "__main__":
    main(benchmark)
