"""Moments that are divided over the processes: the same bits, and each is kept once."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from launching import TIMEOUT_SECONDS, environment, torchrun
from runs import Runs, assert_same_end
from safetensors import safe_open

from mlmtune.training.sharding import assign

NUM_PROCESSES = 3  # of two, any order of adding up gives the same bits
SECTIONS: dict[str, Any] = {
    "model": {"dropout": 0.1},
    # Each process adds up three micro-batches.
    "training": {"max_steps": None, "global_batch_size": 16, "micro_batch_size": 2, "log_every": 1},
    "optimizer": {"max_grad_norm": 0.1},  # all gradients are clipped
    "checkpoint": {"every": 3, "export": "last"},
    "phases": [
        {"name": "stable", "max_steps": 4, "schedule": "constant"},
        {"name": "decay", "max_steps": 3, "reset_optimizer": True},
    ],
}
SHARDED = {"training": {**SECTIONS["training"], "shard_optimizer": True}}


def test_a_sharded_run_has_the_same_bits_and_can_be_resumed_with_and_without(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onward = {
        "model": {"name_or_path": str(runs.at("a-plain").checkpoint(4)), "dropout": 0.1},
        "optimizer": {**SECTIONS["optimizer"], "initial_moments": "checkpoint"},
        "phases": SECTIONS["phases"][:1],
    }
    for name, sections in {
        "a-plain": {},
        "b-sharded": SHARDED,
        "c-off.stopped": SHARDED,
        "c-off.resumed": {},
        "d-on.stopped": {},
        "d-on.resumed": SHARDED,
        "e-onward": onward,
        "f-onward-sharded": onward | SHARDED,
    }.items():
        output = {"output_dir": str(runs.at(name.partition(".")[0]).path)}
        runs.config(name, **{**SECTIONS, **sections, "run": output})
    script = Path(__file__).with_name("sharded_runs.py")
    subprocess.run(
        torchrun(script, tmp_path, num_processes=NUM_PROCESSES),
        env=environment(ACCELERATE_USE_CPU="true"), check=True, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip

    plain, sharded = runs.at("a-plain"), runs.at("b-sharded")
    for name in ("b-sharded", "c-off", "d-on"):
        assert_same_end(runs.at(name), plain)
    assert_same_end(runs.at("f-onward-sharded"), runs.at("e-onward"))

    with safe_open(sharded.checkpoint(7) / "optimizer.safetensors", "pt") as file:
        names = {key.rpartition("/")[0] for key in file.keys()}  # noqa: SIM118
    kept = {
        name: json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("a-plain", "b-sharded", "c-off.resumed", "d-on.resumed", "f-onward-sharded")
    }
    for name, by_process in kept.items():
        assert len(by_process) == NUM_PROCESSES
        if name in ("a-plain", "c-off.resumed"):
            assert all(set(one) == names for one in by_process)
        else:
            assert all(by_process)
            assert sorted(name for one in by_process for name in one) == sorted(names)

    # By one process, which has nothing to share; the moments of the second phase are loaded.
    capsys.readouterr()
    one = runs.train("one", **SECTIONS | SHARDED, resume=str(sharded.checkpoint(6)))
    assert "processes: 3 then, 1 now" in capsys.readouterr().out
    assert one.losses == pytest.approx(plain.losses[-1:], rel=1e-5)
    assert one.evaluations[7] == pytest.approx(plain.evaluations[7], rel=1e-5)


@pytest.mark.parametrize(
    ("sizes", "owners"),
    [
        ([5, 9, 4, 1, 1], [1, 0, 1, 0, 1]),  # 10 numbers each
        ([7], [0]),  # the other process keeps nothing
        ([2, 2, 2], [0, 1, 0]),
    ],
)
def test_parameters_are_divided_evenly_the_largest_first(
    sizes: list[int], owners: list[int]
) -> None:
    assert assign(sizes, 2) == owners
