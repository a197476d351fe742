"""The script of a job, by its text, and what sbatch answers."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mlmtune.config import EngineConfig
from mlmtune.errors import ConfigError, NetworkError
from mlmtune.training.slurm_job import TrainingJob, check_sbatch, job_script, submit

JOB = TrainingJob(
    name="azure",
    python="/env/bin/python",
    command=["train", "--config", "azure.yaml", "run.seed=1", "corpus.name=my text"],
    first_start=["--resume", "never"],
    num_nodes=2,
    num_processes=4,
    uses_gpus=True,
    working_directory=Path("/shared"),
    log=Path("/shared/logs of all/azure-%j.log"),
)


def options(script: str) -> dict[str, str]:
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH --")]
    pairs = (line.removeprefix("#SBATCH --").partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


def test_the_script_of_two_nodes() -> None:
    script = job_script(JOB, EngineConfig(partition="gpu", cpus=8))
    assert options(script) == {
        "job-name": "azure",
        "nodes": "2",
        "ntasks-per-node": "1",
        "cpus-per-task": "32",
        "gpus-per-node": "4",
        "partition": "gpu",
        "time": "24:00:00",
        "signal": "USR1@300",
        "requeue": "",
        "open-mode": "append",
        "output": "'/shared/logs of all/azure-%j.log'",
        "chdir": "/shared",
    }
    assert (
        "    /env/bin/python -m mlmtune train --config azure.yaml run.seed=1 'corpus.name=my text' "
        '--on local --nproc 4 --nodes 2 --rendezvous "$address:$port" "${start[@]}"\n'
    ) in script
    assert "ACCELERATE_USE_CPU" not in script


def test_one_node_needs_no_place_to_meet() -> None:
    script = job_script(replace(JOB, num_nodes=1), EngineConfig())
    assert "rendezvous" not in script
    assert "scontrol show node" not in script
    assert '--on local --nproc 4 "${start[@]}"' in script


def test_a_job_on_cpus_asks_for_no_gpus() -> None:
    script = job_script(replace(JOB, uses_gpus=False), EngineConfig())
    assert "gpus-per-node" not in options(script)
    assert "\nexport ACCELERATE_USE_CPU=true\n" in script


def test_options_of_the_config_replace_those_of_mlmtune() -> None:
    engine = EngineConfig(
        sbatch={"gres": "gpu:a100:4", "nodes": 3, "account": "a b", "time": None, "exclusive": ""}
    )
    found = options(job_script(JOB, engine))
    assert (found["gres"], found["nodes"], found["account"]) == ("gpu:a100:4", "3", "'a b'")
    assert not {"gpus-per-node", "time"} & found.keys()
    assert found["exclusive"] == ""


@pytest.mark.parametrize(
    ("limit", "seconds"), [("1-00:00:00", 300), ("00:20:00", 300), ("00:10:00", 150)]
)
def test_a_run_is_told_to_save_before_its_time_is_over(limit: str, seconds: int) -> None:
    script = job_script(JOB, EngineConfig(time_limit=limit))
    assert options(script)["signal"] == f"USR1@{seconds}"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs a script finds first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def install(programs: Path, name: str, script: str) -> None:
    (programs / name).write_text(f"#!/bin/bash\n{script}\n")
    (programs / name).chmod(0o755)


@pytest.mark.parametrize(
    ("num_restarts", "code", "start", "is_requeued"),
    [
        ("", 0, "--resume never", False),
        ("", 138, "--resume never", True),  # stopped by SIGUSR1
        ("1", 143, "--resume auto", True),  # stopped by SIGTERM
        ("1", 3, "--resume auto", False),
        ("", 137, "--resume never", False),
    ],
)
def test_the_script_starts_resumes_and_is_requeued(
    programs: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_restarts: str,
    code: int,
    start: str,
    is_requeued: bool,
) -> None:
    install(programs, "srun", f'echo "srun $*"; exit {code}')
    install(
        programs,
        "scontrol",
        'if [[ $1 == show ]]; then echo "NodeName=$4 NodeHostName=x NodeAddr=10.0.0.7 Port=1"; '
        'else echo "scontrol $*"; fi',
    )
    variables = {"SLURM_JOB_ID": "25001", "SLURMD_NODENAME": "n7", "SLURM_CPUS_PER_TASK": "4"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_RESTART_COUNT", num_restarts)
    ended = subprocess.run(
        ["bash", "-c", job_script(JOB, EngineConfig(setup="set -u"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (code, "")
    step, *rest = ended.stdout.splitlines()
    assert step.startswith("srun --ntasks-per-node=1 --cpus-per-task=4 /env/bin/python -m mlmtune")
    assert step.endswith(f"--nodes 2 --rendezvous 10.0.0.7:21001 {start}")
    assert rest == (["scontrol requeue 25001"] if is_requeued else [])


def test_the_number_of_a_submitted_job(programs: Path, tmp_path: Path) -> None:
    install(programs, "sbatch", f'echo "$*" > {tmp_path}/arguments; echo "4711;alps"')
    assert submit(tmp_path / "azure.sh") == "4711"
    assert (tmp_path / "arguments").read_text() == f"--parsable {tmp_path}/azure.sh\n"


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (
            "sbatch: error: invalid partition specified: gpus\\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            ConfigError,
            "Slurm refuses the job: invalid partition specified: gpus; Batch job submission failed",
        ),
        (
            "sbatch: error: Invalid generic resource (gres) specification",
            ConfigError,
            "specification; to train on CPUs, set ACCELERATE_USE_CPU=true",
        ),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller",
            NetworkError,
            "Unable to contact slurm controller",
        ),
    ],
)
def test_sbatch_says_why_not(
    programs: Path, tmp_path: Path, said: str, error: type[Exception], message: str
) -> None:
    install(programs, "sbatch", f'printf "{said}\\n" >&2; exit 1')
    with pytest.raises(error) as raised:
        submit(tmp_path / "azure.sh")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_machine_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="no sbatch on this machine"):
        check_sbatch()
