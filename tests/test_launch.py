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
from launching import TIMEOUT_SECONDS, environment, torchrun
from safetensors.torch import load_file

from mlmtune.config_loading import load_config
from mlmtune.training.checkpoint import find_fault
from mlmtune.training.loop import train
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.run_options import RunOptions

ENDLESS: dict[str, dict[str, Any]] = {
    "training": {"max_steps": 100_000, "log_every": 1},
    "evaluation": {"every": None},
    "checkpoint": {"every": None},
}
"""A run that ends by what is done to it, and saves nothing before."""


@contextmanager
def started(*arguments: Any, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A child in a process group of its own, as a shell's foreground job is."""
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
        start_new_session=True,
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


def wait_for(child: subprocess.Popen[str], beginning: str) -> None:
    """Read what a child prints up to a line that begins so."""
    assert child.stdout is not None
    assert any(line.startswith(beginning) for line in child.stdout), child.communicate()


def workers(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that it started, by rank."""
    children = psutil.Process(launcher.pid).children()
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


def status_of(run: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((run / "status.json").read_text(encoding="utf-8"))
    return status


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def records(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        # These two depend on the machine and on how batches are divided.
        {k: v for k, v in json.loads(line).items() if k not in ("tokens_per_second", "fill")}
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
        wait_for(child, "step 2/200")
        child.send_signal(number)
        _, err = child.communicate(timeout=TIMEOUT_SECONDS)
    run = tmp_path / "run"
    status = status_of(run)
    assert (child.returncode, status["state"], status["exit_code"]) == (code, "interrupted", code)
    [line] = err.splitlines()
    assert f"stopped by {number.name} after step" in line
    assert "--resume auto" in line
    [checkpoint] = (run / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 2 <= step < 200
    assert str(checkpoint) in line

    train(load_config(path), RunOptions(resume="auto", is_quiet=True), build_masked_lm)
    whole = kept / "whole"
    if not whole.exists():
        path = config_file("whole.yaml", run={"output_dir": str(whole)}, **sections)
        train(load_config(path), RunOptions(is_quiet=True), build_masked_lm)
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
    train(load_config(path), RunOptions(is_quiet=True), build_masked_lm)
    path = config_file("two.yaml", run={"output_dir": str(two)}, **sections)
    launched = launch("-m", "mlmtune", "train", "--nproc", 2, "--config", path)
    assert (launched.returncode, launched.stderr) == (0, "")
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


def test_two_processes_find_words_and_pairs_once_and_take_the_same_steps(
    config_file: Callable[..., Path], tmp_path: Path, pair_sections: dict[str, Any]
) -> None:
    """The two segments of an exchange may fall to different processes."""
    sections = {
        **pair_sections,
        "masking": {"strategy": "whole_word"},
        "tokenization": {"word_segmenter": "rjieba"},
        "optimizer": {"adam_epsilon": 1e-3},
        "training": {"max_steps": 3, "global_batch_size": 9, "micro_batch_size": 2},
    }
    one, two = tmp_path / "one", tmp_path / "two"
    path = config_file("two.yaml", run={"output_dir": str(two)}, **sections)
    launched = launch("-m", "mlmtune", "train", "--nproc", 2, "--config", path)
    assert (launched.returncode, launched.stderr) == (0, "")
    path = config_file("one.yaml", run={"output_dir": str(one)}, **sections)
    train(load_config(path), RunOptions(is_quiet=True), build_masked_lm)
    for record, expected in zip(records(two), records(one), strict=True):
        assert record.keys() == expected.keys()
        for key in expected:
            assert record[key] == pytest.approx(expected[key], rel=1e-4), key
    results = [json.loads((run / "eval_results.json").read_text("utf-8")) for run in (one, two)]
    assert results[0]["pair_accuracy"] == results[1]["pair_accuracy"]
    assert results[0]["num_pairs"] == results[1]["num_pairs"]


def test_processes_that_would_run_alone_are_refused(
    config_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # with GPUs plain torchrun would be right
    launched = launch(*torchrun("-m", "mlmtune", "train", "--config", config_file())[1:])
    assert launched.returncode != 0
    said = [line for line in launched.stderr.splitlines() if line.startswith("mlmtune: ")]
    assert len(said) == 1
    assert "2 processes were launched" in said[0]
    assert "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m mlmtune" in said[0]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_accelerate_launches_the_installed_command(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    script = tmp_path / "mlmtune"  # as an installer writes it for [project.scripts]
    script.write_text("import sys\nfrom mlmtune.cli import main\nsys.exit(main())\n")
    launched = launch(
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes", 1, "--num_machines", 1,
        "--mixed_precision", "no", "--dynamo_backend", "no",
        script, "train", "--config", config_file(training={"max_steps": 2}),
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    status = status_of(tmp_path / "run")
    assert (status["state"], status["step"]) == ("finished", 2)


def test_a_signal_to_one_of_two_processes_saves_the_same_step_and_ends_both(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    run = ("-m", "mlmtune", "train", "--config", config_file(**ENDLESS))
    with started(*torchrun(*run)[1:], ACCELERATE_USE_CPU="true") as launcher:
        wait_for(launcher, "step 3/")
        workers(launcher)[1].send_signal(signal.SIGTERM)
        launcher.communicate(timeout=TIMEOUT_SECONDS)
    status = status_of(tmp_path / "run")
    assert (status["state"], status["exit_code"]) == ("interrupted", 143)
    [saved] = (tmp_path / "run" / "checkpoints").iterdir()
    assert find_fault(saved) is None
    assert str(saved) in status["message"]


def test_what_keeps_the_main_process_from_starting_stops_the_others_at_once(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.txt").write_text("not a run", encoding="utf-8")
    of_another = '{"state": "failed", "exit_code": 5, "message": "of another day", "pid": 1}'
    (run / "status.json").write_text(of_another, encoding="utf-8")
    launched = launch("-m", "mlmtune", "train", "--nproc", 2, "--config", config_file())
    assert launched.returncode == 2
    [line] = launched.stderr.splitlines()
    assert line.startswith("mlmtune: ")
    assert "is not empty" in line
    assert (run / "status.json").read_text(encoding="utf-8") == of_another


def test_nproc_ends_as_the_run_does_and_leaves_nobody_behind(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ("-m", "mlmtune", "train", "--nproc", 2, "--config", config_file(**ENDLESS))

    with started(*command) as launcher:  # Ctrl-C reaches the terminal's whole process group
        wait_for(launcher, "step 3/")
        first = workers(launcher)
        os.killpg(launcher.pid, signal.SIGINT)
        _, err = launcher.communicate(timeout=TIMEOUT_SECONDS)
    assert launcher.returncode == 130
    [line] = err.splitlines()
    [saved] = (run / "checkpoints").iterdir()
    assert find_fault(saved) is None
    assert f"stopped by SIGINT after step {saved.name.removeprefix('checkpoint-')};" in line
    assert str(saved) in line
    assert (status_of(run)["state"], status_of(run)["exit_code"]) == ("interrupted", 130)
    assert not any(worker.is_running() for worker in first)

    with started(*command, "--resume", "auto") as launcher:
        wait_for(launcher, f"resumed from {saved}")
        wait_for(launcher, "step ")
        workers(launcher)[1].kill()
        _, err = launcher.communicate(timeout=TIMEOUT_SECONDS)
    assert launcher.returncode == 128 + signal.SIGKILL
    [line] = err.splitlines()
    assert line.startswith("mlmtune: process 1 was killed by SIGKILL")
    assert status_of(run)["exit_code"] == 128 + signal.SIGKILL
    assert status_of(run)["message"] in line

    with started(*command, "--resume", "auto") as launcher:
        wait_for(launcher, "step ")
        orphans = workers(launcher)
        launcher.kill()
        # They keep its pipes open until they have saved and ended.
        _, err = launcher.communicate(timeout=TIMEOUT_SECONDS)
    psutil.wait_procs(orphans, timeout=TIMEOUT_SECONDS)
    assert not any(orphan.is_running() for orphan in orphans)
    [line] = err.splitlines()
    assert "stopped by SIGTERM after step" in line
    assert status_of(run)["exit_code"] == 143
    assert len(list((run / "checkpoints").iterdir())) == 2
