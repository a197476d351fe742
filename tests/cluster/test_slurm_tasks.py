"""What Slurm's own programs answer, with programs of the same names."""

import pytest

from mlmtune.cluster.slurm import Slurm, SlurmJobs
from mlmtune.cluster.stage import Stage
from mlmtune.config import EngineConfig
from mlmtune.corpus.engine import Work
from mlmtune.errors import ConfigError, NetworkError, ResourceError

ANSWERS = 'echo "MaxArraySize            = 3"'


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Write programs by their names, before which no others of Slurm are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "cat"):
        (folder / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))

    def write(**scripts):
        for name, script in scripts.items():
            path = folder / name
            path.write_text(f"#!/bin/bash\n{script}\n")
            path.chmod(0o755)

    return write


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path / "stage")
    stage.write(divmod, [[1]] * 7, 2, Work("dividing", "number"), [1] * 7, [])
    return stage


def submit(stage, **settings):
    return Slurm(EngineConfig(kind="slurm", **settings)).submit(stage, 7)


def test_a_machine_without_slurm_is_said(programs, stage):
    with pytest.raises(ConfigError, match="no scontrol and sbatch; run the command on a login"):
        submit(stage)


def test_a_slurm_that_does_not_answer_is_said(programs, stage):
    programs(scontrol='echo "slurm_load_ctl_conf error: Unable to contact" >&2; exit 1')
    with pytest.raises(NetworkError, match="Slurm does not answer"):
        submit(stage)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("sbatch: error: Batch job submission failed: Invalid account", "tasks: Invalid account;"),
        ("sbatch: unrecognized option '--nosuch'\nTry --help", "tasks: unrecognized option '--no"),
        ("", "tasks: it gives no reason"),
    ],
)
def test_a_queue_that_refuses_is_quoted(programs, stage, answer, reason, capfd):
    programs(scontrol=ANSWERS, sbatch=f"cat >&2 << END\n{answer}\nEND\nexit 1")
    with pytest.raises(ConfigError, match=f"Slurm refuses the {reason}"):
        submit(stage)
    assert capfd.readouterr().err == ""


def test_the_options_are_those_of_the_config(programs, stage):
    """More tasks than an array may have are several arrays, and all of them are followed."""
    programs(
        scontrol=ANSWERS,
        sbatch="n=$(cat $0.n 2>/dev/null || echo 0); echo $((n + 1)) > $0.n; "
        'cat "${@: -1}" > $0.script; echo "$@" >> $0.arguments; echo "Submitted batch job 4$n"',
    )
    jobs = submit(
        stage, partition="cpu", time_limit="1-00:00:00", workers=2, memory_gb=9,
        sbatch={"account": "nlp", "mem-per-cpu": "10G", "exclusive": "", "nice": 0},
        setup="module load python",
    )  # fmt: skip
    assert jobs.job_ids == ("40", "41", "42")
    assert jobs.name == "job 40, 41, 42 of Slurm"
    script = (stage.folder.parent / "bin" / "sbatch.script").read_text()
    for line in ("partition=cpu", "time=1-00:00:00", "account=nlp", "mem-per-cpu=10G",
                 "array=0-2%2", "cpus-per-task=1", "requeue",
                 "exclusive", "nice=0"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert "qos" not in script
    assert script.index("module load python") < script.index("export PATH=")
    again = Slurm(EngineConfig()).left(stage)
    assert again == jobs
    assert Slurm(EngineConfig()).left(Stage(stage.folder.parent)) is None

    submit(stage, sbatch={"partition": None, "mem-per-cpu": None})
    script = (stage.folder.parent / "bin" / "sbatch.script").read_text()
    assert "--mem-per-cpu" not in script
    assert "--partition" not in script


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", None),
        ("echo 'squeue: error: Invalid job id specified' >&2; exit 1", None),
        ("echo 'RUNNING|None'; echo 'PENDING|Resources'", ""),
        ("echo 'PENDING|Resources'; echo 'PENDING|Priority'", "Slurm: Priority, Resources"),
        ("echo 'PENDING|None'", ""),
        ("echo 'COMPLETING|None'", ""),
        ("echo 'squeue: error: timed out' >&2; exit 1", "Slurm does not answer: timed out"),
    ],
)
def test_what_the_queue_says_of_the_tasks(programs, answer, reason):
    programs(squeue=answer)
    assert SlurmJobs(("7",)).why_waiting() == reason


def test_tasks_that_slurm_holds_are_not_waited_for(programs):
    programs(squeue="echo 'PENDING|launch failed requeued held'")
    with pytest.raises(ResourceError, match=r"holds job 7 of Slurm \(launch failed req"):
        SlurmJobs(("7",)).why_waiting()


def test_all_jobs_are_cancelled(programs, tmp_path):
    programs(scancel=f'echo "$@" > {tmp_path}/cancelled')
    SlurmJobs(("7", "8")).cancel()
    assert (tmp_path / "cancelled").read_text() == "7 8\n"
