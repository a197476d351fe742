"""kill -9 of three processes: three go on to the same bits, and one to the same loss."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from launching import TIMEOUT_SECONDS, environment, torchrun
from runs import Runs, assert_same_end
from scenario import IN_PHASES, whole_steps

NUM_PROCESSES = 3  # of two, any order of adding up gives the same bits

# Adam's step follows the gradient, so that rounding of a gradient of 0 makes no step.
SMOOTH: dict[str, Any] = {**IN_PHASES, "optimizer": {"adam_epsilon": 1e-3}}


def kill_all(launcher: subprocess.Popen[str]) -> None:
    """The launcher's group; its workers are in groups of their own, and would go on."""
    workers = psutil.Process(launcher.pid).children(recursive=True)
    os.killpg(launcher.pid, signal.SIGKILL)
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers, timeout=TIMEOUT_SECONDS)


def test_killed_and_resumed_by_three_and_by_one(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = (runs.config(name, **SMOOTH) for name in ("whole", "run"))
    on_cpus = environment(ACCELERATE_USE_CPU="true")
    script = Path(__file__).with_name("pausing.py")
    with subprocess.Popen(
        torchrun(script, whole, killed, 5, tmp_path, num_processes=NUM_PROCESSES),
        env=on_cpus, text=True, start_new_session=True,
    ) as launcher:  # fmt: skip
        try:
            until = time.monotonic() + TIMEOUT_SECONDS
            while len(list(tmp_path.glob("standing-*"))) < NUM_PROCESSES:
                assert launcher.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
        finally:
            kill_all(launcher)
    run, expected = runs.at("run"), runs.at("whole")
    assert whole_steps(run) == [2, 4]
    assert run.json("status.json")["state"] == "running"
    shutil.copytree(run.path, runs.at("one").path)

    resumed = subprocess.run(
        torchrun(
            "-m", "mlmtune", "train", "--config", killed, "--resume", "auto",
            num_processes=NUM_PROCESSES,
        ),
        env=on_cpus, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from {run.checkpoint(4)}, after step 4" in resumed.stdout
    assert_same_end(run, expected)
    assert run.json("environment.json")["num_processes"] == NUM_PROCESSES

    capsys.readouterr()
    one = runs.train("one", **SMOOTH, resume="auto")
    said = capsys.readouterr().out
    assert "processes: 3 then, 1 now" in said
    assert f"resumed from {one.checkpoint(4)}, after step 4" in said
    assert one.losses == pytest.approx(expected.losses, rel=1e-5)
    assert one.evaluations == pytest.approx(expected.evaluations, rel=1e-5)
