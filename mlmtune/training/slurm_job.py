"""A job of Slurm that trains: its script, and its submission by sbatch."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlmtune.cluster.slurm_answers import complaints
from mlmtune.config import EngineConfig
from mlmtune.errors import ConfigError, NetworkError
from mlmtune.training.launched import GRACE_SECONDS

USE_CPU = "ACCELERATE_USE_CPU"
"""Accelerate's variable for computing on CPUs."""

_ASKS_FOR_GPUS = re.compile("gres|gpus|gpus-per-.*")
"""Options of sbatch that ask for GPUs."""


@dataclass(frozen=True)
class TrainingJob:
    """What a job runs.

    Attributes:
        name: Its name in the queue.
        python: The Python of all nodes.
        command: The command of mlmtune with its arguments, except those of the others here.
        first_start: More arguments for its first start; after a requeue it resumes instead.
        num_nodes: The number of nodes.
        num_processes: The number of processes on each node.
        uses_gpus: Whether each process has a GPU.
        working_directory: Where the command is run.
        log: Where all that it prints is appended; `%j` stands for the number of the job.
    """

    name: str
    python: str
    command: Sequence[str]
    first_start: Sequence[str]
    num_nodes: int
    num_processes: int
    uses_gpus: bool
    working_directory: Path
    log: Path


def job_script(job: TrainingJob, engine: EngineConfig) -> str:
    """Return the script that `sbatch` takes."""
    options = [
        f"#SBATCH --{name}" + (f"={shlex.quote(str(value))}" if value != "" else "")
        for name, value in _sbatch_options(job, engine).items()
        if value is not None
    ]
    command = [job.python, "-m", "mlmtune", *job.command, "--on", "local"]
    command += ["--nproc", str(job.num_processes)]
    meeting, address = "", ""
    if job.num_nodes > 1:
        command += ["--nodes", str(job.num_nodes)]
        meeting, address = _MEETING, ' --rendezvous "$address:$port"'
    blocks = [
        "\n".join(["#!/bin/bash", *options]),
        engine.setup.strip(),
        "" if job.uses_gpus else f"export {USE_CPU}=true",
        _START.format(arguments=shlex.join(job.first_start)),
        meeting,
        _STEP.format(command=shlex.join(command), address=address),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


_START = """\
# After a requeue the run is resumed, whatever the first start was asked to do.
start=({arguments})
if [[ ${{SLURM_RESTART_COUNT:-0}} -gt 0 ]]; then start=(--resume auto); fi"""

_MEETING = """\
# The address of this node, the first one; names of nodes need not be known outside of Slurm.
node=$(scontrol show node --oneliner "$SLURMD_NODENAME")
[[ $node =~ \\ NodeAddr=([^\\ ]+) ]] && address=${BASH_REMATCH[1]}
port=$((20000 + SLURM_JOB_ID % 12000))"""

_STEP = """\
# srun does not take over the processors that sbatch was asked for.
srun --ntasks-per-node=1 ${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}} \\
    {command}{address} "${{start[@]}}"
code=$?

# Stopped by SIGUSR1 or SIGTERM, with its state saved. Any other failure would happen again.
if [[ $code == 138 || $code == 143 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code"""


def _sbatch_options(job: TrainingJob, engine: EngineConfig) -> dict[str, str | int | None]:
    """Return options of `sbatch`; the value of a flag is empty, and None is left to the cluster."""
    options: dict[str, str | int | None] = {
        "requeue": "",
        "job-name": job.name,
        "nodes": job.num_nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": job.num_processes * engine.cpus,
        "time": engine.time_limit,
        "signal": f"USR1@{_seconds_to_save(engine.time_limit)}",
        "open-mode": "append",
        "output": str(job.log),
        "chdir": str(job.working_directory),
    }
    if engine.partition is not None:
        options["partition"] = engine.partition
    if job.uses_gpus and not any(_ASKS_FOR_GPUS.fullmatch(name) for name in engine.sbatch):
        options["gpus-per-node"] = job.num_processes
    return {**options, **engine.sbatch}


def _seconds_to_save(time_limit: str) -> int:
    """Return the seconds before the time limit at which the run gets the signal to save."""
    days, _, clock = time_limit.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    # A job with a short limit needs most of it to come further.
    return min(GRACE_SECONDS, total // 4)


def check_sbatch() -> None:
    """Refuse a machine that cannot submit jobs.

    Raises:
        ConfigError: It has no `sbatch`.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "there is no sbatch on this machine; submit from a machine of the cluster, or show the "
            "script with --dry-run"
        )


def submit(script: Path) -> str:
    """Submit a job, and return its number.

    Raises:
        ConfigError: Slurm refuses it.
        NetworkError: Slurm does not answer.
    """
    ended = subprocess.run(
        ["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False
    )
    if ended.returncode == 0:
        return ended.stdout.strip().partition(";")[0]  # a cluster's name may follow
    reason = "; ".join(complaints(ended.stderr))
    if "contact slurm controller" in reason:
        raise NetworkError(f"sbatch: {reason}")
    hint = f"; to train on CPUs, set {USE_CPU}=true" if "gres" in reason.lower() else ""
    raise ConfigError(f"{script}: Slurm refuses the job: {reason}{hint}")
