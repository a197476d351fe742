"""Where a run is trained, what a job of it is asked for, and what is printed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlmtune.commands import starting
from mlmtune.commands.starting import ChosenConfig, Processes, is_submitted, run_in_processes
from mlmtune.commands.train_job import submit_training
from mlmtune.errors import ConfigError, MlmtuneError
from mlmtune.training.run_options import RunOptions

Submit = Callable[..., None]


@pytest.fixture
def chosen(config_file: Callable[..., Path], tmp_path: Path) -> Callable[..., ChosenConfig]:
    def choose(**engine: Any) -> ChosenConfig:
        engine = {"folder": str(tmp_path / "jobs"), **engine}
        return starting.choose_config(config_file(engine=engine), None, ["run.seed=7"], None)  # type: ignore[arg-type]

    return choose


@pytest.fixture
def submit(chosen: Callable[..., ChosenConfig], monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Submits, or shows, a job of two nodes with four GPUs each."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)

    def submit_job(
        options: RunOptions = RunOptions(),  # noqa: B008
        processes: Processes = Processes("4", 2),  # noqa: B008
        *,
        is_shown_only: bool = False,
        **engine: Any,
    ) -> None:
        config = chosen(**engine)
        options = RunOptions(
            options.resume, options.overwrite, options.allow_changes, options.is_quiet,
            command=config.command("train"),
        )  # fmt: skip
        submit_training(config, options, processes, has_report=False, is_shown_only=is_shown_only)

    return submit_job


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm that takes every job; gives the file with the last one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "sbatch"
    program.write_text(f'#!/bin/sh\ncat "$2" > {tmp_path}/submitted; echo 4711\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path / "submitted"


@pytest.mark.parametrize(
    ("on", "kind", "expected"),
    [(None, "local", False), (None, "slurm", True), ("local", "slurm", False),
     ("slurm", "local", True), ("slurm", "ray", True)],
)  # fmt: skip
def test_where_a_run_is_trained(
    chosen: Callable[..., ChosenConfig],
    monkeypatch: pytest.MonkeyPatch,
    on: str | None,
    kind: str,
    expected: bool,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert is_submitted(on, chosen(kind=kind)) == expected
    monkeypatch.setenv("WORLD_SIZE", "2")  # a launcher has started this process
    assert not is_submitted(on, chosen(kind=kind))


@pytest.mark.parametrize(("on", "kind"), [("ray", "local"), (None, "ray")])
def test_ray_trains_no_run(
    chosen: Callable[..., ChosenConfig],
    monkeypatch: pytest.MonkeyPatch,
    on: str | None,
    kind: str,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match="Ray runs mlmtune prepare only"):
        is_submitted(on, chosen(kind=kind))


def test_settings_that_were_chosen_for_this_machine_are_not_submitted(
    chosen: Callable[..., ChosenConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    drafted = ChosenConfig(chosen().settings, "", None)
    with pytest.raises(ConfigError, match="--on slurm needs a config"):
        is_submitted("slurm", drafted)


@pytest.mark.parametrize(
    ("processes", "message"),
    [(Processes(nodes=2), "--nodes 2: give the place where they meet"),
     (Processes("2", 2), "--nodes 2: give the place where they meet"),
     (Processes("2", rendezvous="a:1"), "--rendezvous a:1: give the number of nodes"),
     (Processes("2", 2, "a"), "--rendezvous a: give HOST:PORT")],
)  # fmt: skip
def test_nodes_that_cannot_meet(
    monkeypatch: pytest.MonkeyPatch, processes: Processes, message: str
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")  # restored afterwards
    with pytest.raises(ConfigError, match=message):
        run_in_processes(processes)


def test_a_job_is_submitted_and_what_to_do_with_it_is_printed(
    submit: Submit, queue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(RunOptions(overwrite=True))
    log = tmp_path / "jobs" / "training" / "run-4711.log"
    assert log.parent.is_dir()  # Slurm makes none
    assert capsys.readouterr().out.splitlines() == [
        "submitted job 4711: 2 nodes with 4 processes each",
        f"follow it: tail -F {log}",
        "stop it with its state saved, and start it again: scancel --signal=USR1 4711",
        "cancel it: scancel 4711",
    ]
    script = queue.read_text()
    assert "start=(--overwrite)" in script
    assert f"--config {tmp_path}/config.yaml run.seed=7 --no-report --on local --nproc 4" in script
    assert "#SBATCH --gpus-per-node=4" in script


def test_the_script_is_shown_without_a_slurm(
    submit: Submit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(is_shown_only=True)
    assert capsys.readouterr().out.startswith("#!/bin/bash\n#SBATCH --requeue\n")
    assert not (tmp_path / "jobs").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("processes", "message"),
    [(Processes("auto", 2), "--nproc auto: with --on slurm"),
     (Processes("0", 2), "--nproc 0: with --on slurm"),
     (Processes("2", 2, "a:1"), "--rendezvous: leave it out with --on slurm")],
)  # fmt: skip
def test_what_no_job_can_have(
    submit: Submit, queue: Path, processes: Processes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        submit(processes=processes)
    assert not queue.exists()


def test_a_directory_that_is_in_use_is_found_before_the_job_waits(
    submit: Submit, queue: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(MlmtuneError, match="is not empty"):
        submit()
    assert not queue.exists()
    submit(RunOptions(resume="auto"))
    assert "start=(--resume auto)" in queue.read_text()
