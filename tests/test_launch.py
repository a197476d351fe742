"""Real processes: signals, and several processes that share a run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from mlmtune.config_loading import load_config
from mlmtune.training.checkpoint import find_fault
from mlmtune.training.job import Options
from mlmtune.training.loop import train

TIMEOUT_SECONDS = 240
LAUNCH_VARIABLES = ("ACCELERATE_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_")


def environment(**variables: str) -> dict[str, str]:
    """A child's: as many threads as here, for the same bits, and no launcher's leftovers."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCH_VARIABLES)}
    return {**kept, "OMP_NUM_THREADS": str(torch.get_num_threads()), **variables}


@contextmanager
def started(*arguments: Any, **variables: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def launch(*arguments: Any, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=TIMEOUT_SECONDS,
    )


def torchrun(num_processes: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def records(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key != "tokens_per_second"}
        for line in lines
    ]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the run that is not stopped; trained once."""
    return tmp_path_factory.mktemp("kept")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_run_and_it_goes_on_to_the_same_end(
    config_file: Callable[..., Path], tmp_path: Path, kept: Path, number: signal.Signals, code: int
) -> None:
    # Long enough that the signal falls between its first step and its last.
    sections: dict[str, dict[str, Any]] = {
        "model": {"dropout": 0.1},
        "training": {"max_steps": 200, "log_every": 1},
        "evaluation": {"every": 100},
        "checkpoint": {"every": None},
    }
    path = config_file(**sections)
    with started("-m", "mlmtune", "train", "--config", path) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("step 2/200"):
                break
        child.send_signal(number)
        _, err = child.communicate(timeout=TIMEOUT_SECONDS)
    run = tmp_path / "run"
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    assert (child.returncode, status["state"], status["exit_code"]) == (code, "interrupted", code)
    [line] = err.splitlines()
    assert f"stopped by {number.name} after step" in line
    assert "--resume auto" in line
    [checkpoint] = (run / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 2 <= step < 200
    assert str(checkpoint) in line

    train(load_config(path), Options(resume="auto", is_quiet=True))
    whole = kept / "whole"
    if not whole.exists():
        path = config_file("whole.yaml", run={"output_dir": str(whole)}, **sections)
        train(load_config(path), Options(is_quiet=True))
    for name in ("model/model.safetensors", "checkpoints/checkpoint-200/optimizer.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert records(run) == records(whole)


def test_two_processes_take_the_same_steps_as_one(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    # 9 sequences do not divide by two; neither do the 31 chunks of validation.
    sections: dict[str, dict[str, Any]] = {
        "optimizer": {"adam_epsilon": 1e-3},
        "training": {"max_steps": 3, "global_batch_size": 9, "micro_batch_size": 2},
    }
    one, two = tmp_path / "one", tmp_path / "two"
    path = config_file("one.yaml", run={"output_dir": str(one)}, **sections)
    train(load_config(path), Options(is_quiet=True))
    path = config_file("two.yaml", run={"output_dir": str(two)}, **sections)
    launched = launch(
        *torchrun(2), "-m", "mlmtune", "train", "--config", path, ACCELERATE_USE_CPU="true"
    )
    assert launched.returncode == 0, launched.stderr
    environment = json.loads((two / "environment.json").read_text(encoding="utf-8"))
    assert environment["num_processes"] == 2
    assert launched.stdout.count("step 1/3") == 1  # one of them speaks
    for record, expected in zip(records(two), records(one), strict=True):
        for key in ("step", "loss", "grad_norm", "num_tokens", "num_masked_tokens",
                    "eval_loss", "eval_num_masked_tokens"):  # fmt: skip
            if key in expected:
                assert record[key] == pytest.approx(expected[key], rel=1e-5), key
    expected_weights = weights(one)
    for name, weight in weights(two).items():
        assert torch.allclose(weight, expected_weights[name], rtol=1e-5, atol=1e-7), name


def test_processes_that_would_run_alone_are_refused(
    config_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # with GPUs plain torchrun would be right
    launched = launch(*torchrun(2), "-m", "mlmtune", "train", "--config", config_file())
    assert launched.returncode != 0
    said = [line for line in launched.stderr.splitlines() if line.startswith("mlmtune: ")]
    assert len(said) == 1
    assert "2 processes were launched" in said[0]
    assert "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m mlmtune" in said[0]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_accelerate_launches_a_process(config_file: Callable[..., Path], tmp_path: Path) -> None:
    launched = launch(
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes", 1, "--num_machines", 1,
        "--mixed_precision", "no", "--dynamo_backend", "no",
        "-m", "mlmtune", "train", "--config", config_file(training={"max_steps": 2}),
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    status = json.loads((tmp_path / "run" / "status.json").read_text(encoding="utf-8"))
    assert (status["state"], status["step"]) == ("finished", 2)


def test_a_signal_to_one_of_two_processes_saves_the_same_step_and_ends_both(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    sections: dict[str, dict[str, Any]] = {
        "training": {"max_steps": 100_000, "log_every": 1},
        "evaluation": {"every": None},
        "checkpoint": {"every": None},
    }
    run = ("-m", "mlmtune", "train", "--config", config_file(**sections))
    with started(*torchrun(2), *run, ACCELERATE_USE_CPU="true") as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if line.startswith("step 3/"):
                break
        workers = psutil.Process(launcher.pid).children()
        [second] = [worker for worker in workers if worker.environ().get("RANK") == "1"]
        second.send_signal(signal.SIGTERM)
        launcher.communicate(timeout=TIMEOUT_SECONDS)
    status = json.loads((tmp_path / "run" / "status.json").read_text(encoding="utf-8"))
    assert (status["state"], status["exit_code"]) == ("interrupted", 143)
    [saved] = (tmp_path / "run" / "checkpoints").iterdir()
    assert find_fault(saved) is None
    assert str(saved) in status["message"]


def test_what_keeps_the_main_process_from_starting_stops_the_others_at_once(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("not a run", encoding="utf-8")
    launched = launch(
        *torchrun(2), "-m", "mlmtune", "train", "--config", config_file(), ACCELERATE_USE_CPU="true"
    )
    assert launched.returncode != 0
    said = [line for line in launched.stderr.splitlines() if line.startswith("mlmtune: ")]
    assert len(said) == 1
    assert "is not empty" in said[0]
