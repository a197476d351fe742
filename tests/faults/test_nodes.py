"""kill -9 of one of two nodes: started again, they go on to the same bits."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from launching import TIMEOUT_SECONDS, environment, free_port
from runs import Run, Runs, assert_same_end

SECTIONS: dict[str, dict[str, Any]] = {
    "model": {"dropout": 0.1},
    "training": {"max_steps": 100, "log_every": 1},
    "evaluation": {"every": None},
    "checkpoint": {"every": 20},
}


def start(config: Path, *options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mlmtune", "train", "--config", config, "--no-report"]
    return subprocess.Popen(
        [*map(str, command), *map(str, options)], text=True, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_nodes(config: Path, *options: object) -> list[subprocess.Popen[str]]:
    """Start the same command twice, as on two machines."""
    address = f"127.0.0.1:{free_port()}"
    return [start(config, "--nodes", 2, "--rendezvous", address, *options) for _ in range(2)]


def wait_for_step(step: int, run: Run, launchers: list[subprocess.Popen[str]]) -> None:
    until = time.monotonic() + TIMEOUT_SECONDS
    metrics = run.path / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_bytes().splitlines()) < step:
        assert time.monotonic() < until
        assert [launcher.poll() for launcher in launchers] == [None, None]
        time.sleep(0.02)


def node_of_process(rank: int, launchers: list[subprocess.Popen[str]]) -> int:
    """The index of the launcher that has started a process."""
    processes = [psutil.Process(launcher.pid).children()[0] for launcher in launchers]
    return [process.environ()["RANK"] for process in processes].index(str(rank))


def kill_with_processes(launcher: subprocess.Popen[str]) -> None:
    processes = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    for process in processes:
        process.kill()
    launcher.communicate()


def test_two_nodes_of_which_one_is_killed_end_as_one_machine_does(runs: Runs) -> None:
    config, run = runs.config("run", **SECTIONS), runs.at("run")
    launchers = start_nodes(config)
    try:
        wait_for_step(1, run, launchers)
        first = node_of_process(0, launchers)
        wait_for_step(40, run, launchers)
        kill_with_processes(launchers[first])
        out, err = launchers[1 - first].communicate(timeout=TIMEOUT_SECONDS)
    finally:
        for launcher in launchers:
            launcher.kill()
    assert launchers[1 - first].returncode == 1
    assert out == ""  # process 0 alone prints
    [line] = err.splitlines()
    assert "ended without a word" in line
    assert "--resume auto" in line
    assert run.json("status.json")["state"] == "running"

    outputs = []
    for launcher in start_nodes(config, "--resume", "auto"):
        outputs.append(launcher.communicate(timeout=TIMEOUT_SECONDS)[0])
        assert launcher.returncode == 0
    assert sorted("resumed from" in out for out in outputs) == [False, True]
    assert run.json("environment.json")["num_processes"] == 2

    whole = start(runs.config("whole", **SECTIONS), "--nproc", 2)
    whole.communicate(timeout=TIMEOUT_SECONDS)
    assert whole.returncode == 0
    assert_same_end(run, runs.at("whole"))
