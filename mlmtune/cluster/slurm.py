"""Tasks as jobs of Slurm, through datatrove's executor."""

import os
import re
import subprocess
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor
from loguru import logger

from mlmtune.cluster.engine import Cluster, Jobs
from mlmtune.cluster.slurm_answers import complaints
from mlmtune.cluster.stage import Stage, Task
from mlmtune.config import EngineConfig
from mlmtune.errors import ConfigError, NetworkError, ResourceError
from mlmtune.files import read_json, write_json

_MAX_ARRAY_SIZE = re.compile(r"^MaxArraySize\s*=\s*(\d+)", re.MULTILINE)
_JOBS = "jobs.json"
_HELD = "held"
_PASSING = {"None", "JobArrayTaskLimit"}
"""Reasons for which tasks wait that were just submitted, or that follow one that has just ended."""


class Executor(SlurmPipelineExecutor):  # type: ignore[misc]
    """Datatrove's executor without what the tasks do not need."""

    def launch_merge_stats(self) -> None:
        """Submit no job that adds up statistics, of which the tasks have none."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """Return the options of sbatch; what is None is left to the cluster."""
        arguments: dict[str, Any] = super().get_sbatch_args(max_array)
        return {name: value for name, value in arguments.items() if value is not None}


@dataclass(frozen=True)
class Slurm(Cluster):
    """A cluster that Slurm manages."""

    config: EngineConfig
    can_leave = True

    def submit(self, stage: Stage, num_tasks: int) -> Jobs:
        """Submit an array of jobs.

        Raises:
            ConfigError: Slurm is not installed, or refuses the options.
            NetworkError: Slurm does not answer.
        """
        logger.disable("datatrove")
        setup = [self.config.setup, f'export PATH="{sysconfig.get_path("scripts")}:$PATH"']
        executor = Executor(
            pipeline=[Task(stage.folder)],
            tasks=num_tasks,
            time=self.config.time_limit,
            partition=self.config.partition,
            mem_per_cpu_gb=self.config.memory_gb,
            workers=self.config.workers or -1,
            job_name="mlmtune-prepare",
            qos=None,
            env_command="\n".join(filter(None, setup)),
            sbatch_args={  # to datatrove, 0 is no value
                name: value if value is None else str(value)
                for name, value in self.config.sbatch.items()
            },
            max_array_size=_max_array_size(),
            max_array_launch_parallel=True,
            logging_dir=str(stage.engine_folder),
            job_id_retriever=_Retriever(),
        )
        with _caught_errors() as caught:
            try:
                executor.run()
            except subprocess.CalledProcessError as error:
                raise ConfigError(
                    f"Slurm refuses the tasks: {_reason(caught())}; see the section engine "
                    "(partition, time_limit, memory_gb, sbatch)"
                ) from error
        jobs = SlurmJobs(tuple(executor.job_id_retriever.job_ids))
        write_json(stage.folder / _JOBS, {"job_ids": jobs.job_ids})
        return jobs

    def left(self, stage: Stage) -> Jobs | None:
        """Return the jobs that an earlier command submitted."""
        record = read_json(stage.folder / _JOBS)
        return None if record is None else SlurmJobs(tuple(record["job_ids"]))


class _Retriever:
    """Takes the ids of all arrays from the answers of sbatch; datatrove keeps the last one only."""

    def __init__(self) -> None:
        self.job_ids: list[str] = []

    def __call__(self, answer: str) -> str:
        self.job_ids.append(answer.split()[-1])
        return self.job_ids[-1]


@dataclass(frozen=True)
class SlurmJobs(Jobs):
    """Arrays of jobs."""

    job_ids: tuple[str, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        """What they are called."""
        return f"job {', '.join(self.job_ids)} of Slurm"

    def why_waiting(self) -> str | None:
        """Return None if all jobs have ended, else why none runs.

        Raises:
            ResourceError: Slurm holds a job, which then never runs.
        """
        command = ["squeue", "--noheader", "--array", "--jobs", ",".join(self.job_ids)]
        done = subprocess.run(
            [*command, "--format", "%T|%r"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            return f"Slurm does not answer: {_reason(done.stderr)}"
        states = Counter(tuple(line.split("|", 1)) for line in done.stdout.splitlines() if line)
        if not states:
            return None
        for state, reason in states:
            if state == "PENDING" and _HELD in reason.lower():
                raise ResourceError(
                    f"Slurm holds {self.name} ({reason}); `scontrol show job {self.job_ids[0]}` "
                    "says more"
                )
        if any(state != "PENDING" for state, _ in states):
            return ""
        reasons = {reason for _, reason in states} - _PASSING
        return f"Slurm: {', '.join(sorted(reasons))}" if reasons else ""

    def cancel(self) -> None:
        """Cancel all jobs."""
        subprocess.run(["scancel", *self.job_ids], capture_output=True, check=False)


def _max_array_size() -> int:
    """Return the largest number of jobs in an array.

    Raises:
        ConfigError: Slurm is not installed.
        NetworkError: Slurm does not answer.
    """
    try:
        done = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ConfigError(
            "--on slurm: this machine has no scontrol and sbatch; run the command on a login node "
            "of the cluster, or leave --on out"
        ) from error
    found = _MAX_ARRAY_SIZE.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise NetworkError(f"Slurm does not answer ({_reason(done.stderr)}); try again later")
    return int(found[1])


def _reason(stderr: str) -> str:
    """Return what a program of Slurm says is wrong, in one line."""
    prefix = "Batch job submission failed: "
    return "; ".join(complaint.removeprefix(prefix) for complaint in complaints(stderr))


@contextmanager
def _caught_errors() -> Iterator[Any]:
    """Keep what programs write to standard error; datatrove leaves that of sbatch there."""
    own = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def caught() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield caught
        finally:
            os.dup2(own, 2)
            os.close(own)
