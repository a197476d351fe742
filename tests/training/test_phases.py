"""Phases: one run whose settings change at known steps, and runs that go on from another."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import Run, Runs, assert_same_end
from safetensors.torch import load_file
from test_loop import SMOOTH, assert_close

from mlmtune.cli import app
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import CheckpointError, ConfigError, Interrupted
from mlmtune.modeling.device import build_accelerator
from mlmtune.training.masked_lm import MaskedLM, build_masked_lm

STABLE = {
    "name": "stable", "max_steps": 4, "schedule": "constant", "mlm_probability": 0.3,
    "warmup_steps": 2,
}  # fmt: skip
DECAY = {
    "name": "decay", "max_steps": 3, "schedule": "one_minus_sqrt", "mlm_probability": 0.15,
    "final_learning_rate_ratio": 0.1, "chunk_length": 24, "global_batch_size": 12,
    "strategy": "whole_word", "sources": {"pages": 1},
}  # fmt: skip
NO_BUDGET = {"max_steps": None, "log_every": 1, "global_batch_size": 8, "precision": "fp32"}


@pytest.fixture(scope="module")
def more_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second source, whose words the first one does not have."""
    folder = tmp_path_factory.mktemp("more")
    for number in range(12):
        text = "the virtual network gateway peers with the subnet . " * (4 + number % 3)
        (folder / f"{number}.txt").write_text(text + str(number), encoding="utf-8")
    return folder


@pytest.fixture
def sections(corpus_dir: Path, more_text: Path) -> Callable[..., dict[str, Any]]:
    def with_phases(*phases: dict[str, Any], **others: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {
            "model": {"dropout": 0.1},
            "corpus": {
                "sources": [
                    {"format": "text", "path": str(corpus_dir), "name": "pages"},
                    {"format": "text", "path": str(more_text), "name": "more"},
                ]
            },
            "training": NO_BUDGET,
            "evaluation": {"every": 100},
            "checkpoint": {"every": 100, "keep": 1, "export": "last"},
            "phases": list(phases or (STABLE, DECAY)),
        }
        for name, values in others.items():
            made[name] = {**made.get(name, {}), **values}
        return made

    return with_phases


def built(runs: Runs, sections: dict[str, Any]) -> MaskedLM:
    config = load_config(runs.config(**sections))
    return build_masked_lm(config, build_accelerator("fp32"), Console(is_quiet=True))


def step_counts(checkpoint: Path) -> set[float]:
    moments = load_file(checkpoint / "optimizer.safetensors")
    return {float(value) for name, value in moments.items() if name.endswith("/step")}


# ------------------------------------------------------------------------------------- one run


def test_each_phase_has_its_own_settings(
    runs: Runs, sections: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.train(**sections())
    steps = [record for record in run.metrics if "loss" in record]
    assert [record["phase"] for record in steps] == ["stable"] * 4 + ["decay"] * 3
    assert [record["mlm_probability"] for record in steps] == [0.3] * 4 + [0.15] * 3
    falling = [0.001 * (0.1 + 0.9 * (1 - math.sqrt(step / 3))) for step in range(3)]
    rates = [0.0005, 0.001, 0.001, 0.001, *falling]
    assert [record["learning_rate"] for record in steps] == pytest.approx(rates)
    seen = [record["num_tokens"] for record in steps]
    assert seen[:4] == [128, 256, 384, 512]
    assert np.diff(seen[3:]).max() == 12 * 24  # a chunk at the end of the text is shorter
    # Each phase is measured at its end, and its last checkpoint stays.
    assert sorted(run.evaluations) == [0, 4, 7]
    assert run.checkpoint_steps == [4, 7]
    said = capsys.readouterr().out
    assert "7 steps in 2 phases" in said
    table = [line.split() for line in said.splitlines() if line.startswith(("stable ", "decay "))]
    assert [line[:2] for line in table] == [["stable", "4"], ["decay", "3"]]
    assert "pages" in table[1]


def test_a_phase_sees_only_the_sources_that_it_names(
    runs: Runs, sections: Callable[..., dict[str, Any]]
) -> None:
    task = built(runs, sections())
    store = task.setup.store
    number = [source.name for source in store.sources].index("more")
    for phase, expected in zip(task.setup.splits.phases, (True, False), strict=True):
        sources = store.documents.sources[phase.view.layout.documents]
        assert bool((sources == number).any()) is expected
    assert (task.setup.splits.validation.num_documents or 0) > 0


def test_phases_draw_order_and_masks_of_their_own(
    runs: Runs, sections: Callable[..., dict[str, Any]]
) -> None:
    twice = [{"name": name, "max_steps": 2} for name in ("one", "two")]
    stream = built(runs, sections(*twice)).stream
    first, second = (stream.micro_batches(step)[0] for step in (0, 2))
    assert not torch.equal(first.input_ids, second.input_ids)


def test_one_phase_is_a_run_without_phases(
    runs: Runs, sections: Callable[..., dict[str, Any]]
) -> None:
    plain = sections(training={**NO_BUDGET, "max_steps": 5}, masking={"mlm_probability": 0.3})
    del plain["phases"]
    one = runs.train("one", **sections({"name": "all", "max_steps": 5, "mlm_probability": 0.3}))
    assert one.model_bytes == runs.train("plain", **plain).model_bytes


def test_micro_batches_only_divide_the_steps_of_each_phase(
    runs: Runs, sections: Callable[..., dict[str, Any]]
) -> None:
    made = [
        runs.train(
            f"of-{size}",
            **sections(
                model={"dropout": 0.0}, optimizer=SMOOTH,
                training={**NO_BUDGET, "micro_batch_size": size},
            ),
        )
        for size in (8, 3)
    ]  # fmt: skip
    assert_close(*made)


@pytest.mark.parametrize("resets", [False, True])
def test_moments_are_kept_across_a_border_unless_they_are_reset(
    runs: Runs, sections: Callable[..., dict[str, Any]], resets: bool
) -> None:
    run = runs.train(**sections(STABLE, {**DECAY, "reset_optimizer": resets}))
    assert step_counts(run.checkpoint(4)) == {4.0}
    assert step_counts(run.checkpoint(7)) == {3.0 if resets else 7.0}


@pytest.mark.parametrize("resets", [False, True])
def test_a_run_that_is_stopped_around_a_border_ends_with_the_same_bits(
    runs: Runs,
    sections: Callable[..., dict[str, Any]],
    stopping_after: Callable[..., Any],
    resets: bool,
) -> None:
    made = sections(STABLE, {**DECAY, "reset_optimizer": resets})
    expected = runs.train("expected", **made)
    for step in (3, 4, 5):
        with stopping_after(step), pytest.raises(Interrupted):
            runs.train(f"at-{step}", **made)
        assert_same_end(runs.train(f"at-{step}", **made, resume="auto"), expected)


@pytest.mark.parametrize(("export", "step"), [("stable", 4), ("last", 7)])
def test_the_end_of_a_phase_becomes_the_result(
    runs: Runs, sections: Callable[..., dict[str, Any]], export: str, step: int
) -> None:
    run = runs.train(**sections(checkpoint={"export": export}))
    assert run.model_bytes == (run.checkpoint(step) / "model.safetensors").read_bytes()
    assert run.json("eval_results.json")["step"] == step


def test_shares_divide_the_length_of_the_run(
    runs: Runs, sections: Callable[..., dict[str, Any]]
) -> None:
    phases = [
        {"name": name, "share": share} for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.2))
    ]
    for budget, lengths in (({"max_steps": 7}, [4, 2, 1]), ({"max_tokens": 1270}, [5, 3, 2])):
        task = built(runs, sections(*phases, training={**NO_BUDGET, **budget}))
        assert [phase.num_steps for phase in task.plan.phases] == lengths


def test_a_chunk_that_the_model_cannot_take_is_refused_before_the_first_phase(
    runs: Runs, sections: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(ConfigError, match=r"phases\.1\.chunk_length \(phase decay\) is 65"):
        runs.train(**sections(STABLE, {**DECAY, "chunk_length": 65}))
    assert not runs.at().path.joinpath("metrics.jsonl").exists()


# -------------------------------------------------------------------------------- going on


def test_a_finished_run_goes_on_with_phases_that_are_added(
    runs: Runs, sections: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = runs.train("expected", **sections())
    runs.train("grown", **sections(STABLE))
    capsys.readouterr()
    run = runs.train("grown", **sections(), resume="auto")
    assert "is finished, and goes on with what was added: decay" in capsys.readouterr().out
    assert_same_end(run, expected)
    runs.train("grown", **sections(), resume="auto")
    assert "is already complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("phases", "line"),
    [
        (
            [{**STABLE, "mlm_probability": 0.2}, DECAY],
            "phases.stable.mlm_probability: 0.3 .*0.2 now",
        ),
        ([STABLE], r"phases: \['stable', 'decay'\] .* \['stable'\] now"),
        ([DECAY, STABLE], r"phases: \['stable', 'decay'\] .* \['decay', 'stable'\] now"),
        ([STABLE, {**DECAY, "max_steps": 9}], "phases.decay.*steps.*: 3 .* 9 now"),
    ],
)
def test_phases_that_have_changed_are_refused(
    runs: Runs,
    sections: Callable[..., dict[str, Any]],
    stopping_after: Callable[..., Any],
    phases: list[dict[str, Any]],
    line: str,
) -> None:
    runs.train("finished", **sections())
    with stopping_after(5), pytest.raises(Interrupted):
        runs.train("stopped", **sections())
    for name in ("finished", "stopped"):
        with pytest.raises(CheckpointError, match=line):
            runs.train(name, **sections(*phases), resume="auto")


def from_(checkpoint: Path) -> dict[str, Any]:
    return {
        "model": {"name_or_path": str(checkpoint), "dropout": 0.1},
        "optimizer": {"initial_moments": "checkpoint"},
    }


def test_a_run_goes_on_from_the_moments_of_another(
    runs: Runs, sections: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    stable = runs.train("stable", **sections(STABLE))
    decay = {**DECAY, "name": "decay"}
    run = runs.train("decay", **sections(decay, **from_(stable.checkpoint(4))))
    assert step_counts(run.checkpoint(3)) == {7.0}
    (ancestor,) = run.json("lineage.json")["ancestors"]
    assert (ancestor["step"], ancestor["num_tokens"]) == (4, 512)
    assert ancestor["checkpoint"] == str(stable.checkpoint(4))
    # Before its first step it is what the other run was at that step.
    assert run.evaluations[0] == pytest.approx(stable.evaluations[4])
    assert "goes on from checkpoint-4 of stable (4 steps, 512 tokens)" in capsys.readouterr().out
    card = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    assert "checkpoint-4 of stable (4 steps, 512 tokens)" in card

    again = runs.train("again", **sections(decay, **from_(run.checkpoint(3))))
    assert [ancestor["step"] for ancestor in again.json("lineage.json")["ancestors"]] == [4, 3]
    orders = [
        built(runs, sections(STABLE, **others)).stream.micro_batches(0)[0].input_ids
        for others in ({}, from_(stable.checkpoint(4)), from_(run.checkpoint(3)))
    ]
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])


def test_a_run_that_went_on_is_resumed_with_the_same_bits(
    runs: Runs, sections: Callable[..., dict[str, Any]], stopping_after: Callable[..., Any]
) -> None:
    stable = runs.train("stable", **sections(STABLE))
    made = sections(DECAY, **from_(stable.checkpoint(4)))
    expected = runs.train("expected", **made)
    with stopping_after(2), pytest.raises(Interrupted):
        runs.train("stopped", **made)
    resumed = runs.train("stopped", **made, resume="auto")
    assert_same_end(resumed, expected)
    assert resumed.json("lineage.json") == expected.json("lineage.json")


def test_what_a_run_cannot_go_on_from(
    runs: Runs, sections: Callable[..., dict[str, Any]], tmp_path: Path, model_dir: Path
) -> None:
    with pytest.raises(ConfigError, match="to be a checkpoint of a run"):
        runs.train("plain", **sections(STABLE, **from_(model_dir)))
    run: Run = runs.train("stable", **sections(STABLE))
    moments = run.checkpoint(4) / "optimizer.safetensors"
    moments.write_bytes(moments.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=r"checkpoint-4: optimizer.safetensors .*go on from an"
    ):
        runs.train("damaged", **sections(STABLE, **from_(run.checkpoint(4))))


def test_the_flag_finds_the_newest_checkpoint_of_a_run(
    runs: Runs, sections: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    stable = runs.train("stable", **sections(STABLE))
    of_hub = {"name_or_path": "a/model", "revision": "step-5"}
    path = runs.config("decay", **sections(DECAY, model=of_hub))
    config = ["--config", str(path), "--no-report"]
    app(["train", *config, "--from", str(stable.path)], standalone_mode=False)
    (ancestor,) = runs.at("decay").json("lineage.json")["ancestors"]
    assert ancestor["checkpoint"] == str(stable.checkpoint(4))
    with pytest.raises(CheckpointError, match="holds no checkpoint; give the directory of a run"):
        app(["train", *config, "--from", str(tmp_path / "nothing")], standalone_mode=False)
