"""`mlmtune train --on slurm` on two nodes of a real Slurm."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launching import TIMEOUT_SECONDS, environment
from runs import Run, Runs, assert_same_end
from slurm import Slurm, wait_until

pytestmark = pytest.mark.cluster


def train(config: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlmtune", "train", "--config", config, "--no-report"]
    return subprocess.run(
        [*map(str, command), *map(str, options)], text=True, capture_output=True,
        env=environment(ACCELERATE_USE_CPU="true"), timeout=TIMEOUT_SECONDS,
    )  # fmt: skip


def has_taken(num_steps: int, run: Run) -> bool:
    metrics = run.path / "metrics.jsonl"
    return metrics.exists() and len(metrics.read_bytes().splitlines()) > num_steps


def test_a_job_that_is_stopped_and_loses_a_node_ends_as_one_machine_does(
    slurm: Slurm, runs: Runs, tmp_path: Path
) -> None:
    sections: dict[str, dict[str, Any]] = {
        "model": {"dropout": 0.1},
        "training": {"max_steps": 300, "log_every": 1},
        "evaluation": {"every": None},
        "checkpoint": {"every": 50},
        "engine": {"folder": str(tmp_path / "jobs")},
    }
    run = runs.at("run")
    submitted = train(runs.config("run", **sections), "--on", "slurm", "--nodes", 2)
    assert (submitted.returncode, submitted.stderr) == (0, "")
    [job] = re.findall(r"submitted job (\d+): 2 nodes with 1 process each", submitted.stdout)
    log = tmp_path / "jobs" / "training" / f"run-{job}.log"
    assert f"tail -F {log}" in submitted.stdout

    wait_until(lambda: has_taken(60, run), "no steps")
    slurm.run("scancel", "--signal=USR1", job)  # as before the end of its time
    slurm.start_now(job)
    assert "stopped by SIGUSR1 after step" in log.read_text()
    [stopped_after] = run.checkpoint_steps[-1:]

    wait_until(lambda: has_taken(stopped_after + 60, run), "no more steps")
    slurm.kill_node("node2")
    slurm.start_node("node2")
    slurm.start_now(job)
    slurm.wait_for(job, "COMPLETED")
    resumed = re.findall(r"resumed from .*checkpoint-(\d+), after step", log.read_text())
    assert int(resumed[0]) == stopped_after < int(resumed[1])

    assert train(runs.config("whole", **sections), "--nproc", 2).returncode == 0
    assert_same_end(run, runs.at("whole"))


def test_a_queue_says_why_it_refuses_a_job(slurm: Slurm, runs: Runs, tmp_path: Path) -> None:
    engine = {"partition": "none", "folder": str(tmp_path / "jobs")}
    refused = train(runs.config(engine=engine), "--on", "slurm")
    assert refused.returncode == 2
    [line] = refused.stderr.splitlines()
    assert line.startswith("mlmtune: ")
    assert "Slurm refuses the job: invalid partition specified: none" in line
