"""mlmtune prepare on a real Slurm and a real Ray, whose machines are killed."""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from slurm import Slurm, wait_until
from vocabulary import WORDS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NUM_FILES = 6


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    """A config whose text makes several parts, each of which is cleaned in a moment."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    for number in range(NUM_FILES):
        pages = [" ".join(draw.choices(WORDS, k=60)) for _ in range(4_500)]
        pages += [f"{page} {number}" for page in pages[:100]]  # near-duplicates
        (folder / f"{number}.txt").write_text("\n".join(pages))
    path = folder / "config.yaml"
    settings = {
        "run": {"output_dir": str(folder / "run")},
        "model": {"name_or_path": str(model_dir)},
        "corpus": {
            "sources": [{"format": "lines", "path": str(folder), "include": "*.txt"}],
            "near_duplicates": {},
        },
        "engine": {"tasks": NUM_FILES, "workers": 2},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def start(config: Path, cache: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "mlmtune", "prepare", "-c", str(config), *arguments],
        env={**os.environ, "MLMTUNE_CACHE": str(cache)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def store_of(cache: Path) -> dict[str, bytes]:
    """The content of every file of the only store."""
    [store] = [path for path in (cache / "tokens").iterdir() if path.is_dir()]
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


@pytest.fixture(scope="session")
def expected(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store that one machine makes."""
    cache = tmp_path_factory.mktemp("cache")
    process = start(config, cache)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return store_of(cache)


def started(cache: Path) -> dict[str, str]:
    """The machine on which each task of the stage that runs was last started."""
    found = (cache / "cluster").glob("*/*/started/*.json")
    return {path.stem: yaml.safe_load(path.read_text())["host"] for path in found}


def end(process: "subprocess.Popen[str]", cache: Path, expected: dict[str, bytes]) -> str:
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert store_of(cache) == expected
    assert not list((cache / "cluster").glob("*/*"))
    assert not list(cache.glob(".probe*"))
    return said


def start_requeued(slurm: Slurm) -> None:
    """Start the tasks of a lost node without the two minutes for which Slurm holds them back."""
    held: list[str] = []

    def are_held() -> bool:
        lines = slurm.run("squeue", "--noheader", "--array", "--format=%i %r").splitlines()
        held.extend(line.split()[0] for line in lines if line.endswith("BeginTime"))
        return bool(held)

    wait_until(are_held, "no task is requeued")
    for job in held:
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")


def test_a_node_of_slurm_that_is_lost_costs_its_tasks(
    slurm: Slurm, config: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    one_per_node = "engine.sbatch={cpus-per-task: 4}"  # all that a node has
    process = start(config, tmp_path, "--on", "slurm", one_per_node)
    wait_until(lambda: "node2" in started(tmp_path).values(), "nothing runs on node2")
    slurm.kill_node("node2")
    start_requeued(slurm)
    end(process, tmp_path, expected)
    slurm.start_node("node2")


def interrupted(process: "subprocess.Popen[str]") -> str:
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    return said


def test_a_command_that_is_interrupted_cancels_its_jobs_or_is_waited_for(
    slurm: Slurm, config: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    process = start(config, tmp_path, "--on", "slurm")
    wait_until(lambda: bool(started(tmp_path)), "no task starts")
    assert "the tasks were cancelled" in interrupted(process)

    nodes = f"NodeName={','.join(slurm.nodes)}"
    slurm.run("scontrol", "update", nodes, "State=DRAIN", "Reason=later")  # so that nothing starts
    process = start(config, tmp_path, "--on", "slurm", "engine.on_interrupt=leave")
    wait_until(lambda: bool(slurm.run("squeue", "--noheader")), "no job is submitted")
    assert "goes on; the same command waits for it" in interrupted(process)
    process = start(config, tmp_path, "--on", "slurm")
    assert process.stdout is not None
    assert "which an earlier command left" in process.stdout.readline()
    slurm.run("scontrol", "update", nodes, "State=RESUME")
    assert re.search(r"cleaning: \d", end(process, tmp_path, expected)) is None
    assert not slurm.run("squeue", "--noheader")


def test_two_commands_for_one_store_build_it_once(
    slurm: Slurm, config: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    first = start(config, tmp_path, "--on", "slurm")
    wait_until(lambda: bool(started(tmp_path)), "no task starts")
    second = start(config, tmp_path, "--on", "slurm")
    end(first, tmp_path, expected)
    said, _ = second.communicate()
    assert (second.returncode, "waiting for another process that builds" in said) == (0, True)
    assert "tasks" not in said


@pytest.fixture
def ray_cluster() -> Iterator[Any]:
    """A Ray cluster of a head and two more machines, all of which are processes of this one."""
    from ray.cluster_utils import Cluster

    resources = {"num_cpus": 1, "memory": 8 << 30, "object_store_memory": 100 << 20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**resources, "num_cpus": 0, "include_dashboard": False},
    )
    try:
        yield cluster, [cluster.add_node(**resources) for _ in range(2)]
    finally:
        cluster.shutdown()


def test_a_machine_of_ray_that_is_lost_costs_its_tasks(
    ray_cluster: Any, config: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    cluster, (worker, _) = ray_cluster
    process = start(config, tmp_path, "--on", "ray", f"engine.address={cluster.address}")
    wait_until(lambda: len(started(tmp_path)) >= 2, "no task starts on one of the machines")
    cluster.remove_node(worker, allow_graceful=False)
    end(process, tmp_path, expected)
