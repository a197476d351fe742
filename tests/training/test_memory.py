"""Memory that runs out: micro batches shrink, and the result stays the same."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from mlmtune.errors import Interrupted, ResourceError, is_out_of_memory
from mlmtune.modeling.losses import Losses
from mlmtune.modeling.masked_head import HeadOutputs, MaskedHead
from mlmtune.modeling.output_layer import LOGITS_AT_ONCE
from mlmtune.training import loop, memory
from mlmtune.training.masked_lm import MaskedLM
from mlmtune.training.memory_estimate import Memory

# Bits depend on how a batch is cut; these runs are cut the same way in the end.
SIZES = {"max_steps": 4, "global_batch_size": 8}


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Makes every larger batch run out of memory, as CUDA says it; gives the sizes tried."""
    losses, outputs = MaskedHead.losses, MaskedHead.outputs

    def limit(num_sequences: int) -> list[int]:
        tried = []

        def check(batch: Any) -> None:
            tried.append(len(batch.input_ids))
            if tried[-1] > num_sequences:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        def limited_losses(head: MaskedHead, model: Any, batch: Any) -> Losses:
            check(batch)
            return losses(head, model, batch)

        def limited_outputs(head: MaskedHead, model: Any, batch: Any) -> HeadOutputs:
            if not model.training:
                check(batch)
            return outputs(head, model, batch)

        monkeypatch.setattr(MaskedHead, "losses", limited_losses)
        monkeypatch.setattr(MaskedHead, "outputs", limited_outputs)
        return tried

    return limit


def recorded(run: Any) -> dict[str, Any]:
    text = (run.path / "config.resolved.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["training"]


def test_a_real_refusal_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN's
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for conv"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_step_that_does_not_fit_is_taken_in_smaller_micro_batches(
    runs: Any, room_for: Callable[[int], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = runs.train("expected", training={**SIZES, "micro_batch_size": 2})
    capsys.readouterr()
    room_for(3)
    run = runs.train(training=SIZES)
    assert run.model_bytes == expected.model_bytes
    assert run.losses == expected.losses
    said = capsys.readouterr().out
    assert "out of memory with micro batches of 8; going on with 4, 2 of them per step" in said
    assert "out of memory with micro batches of 4; going on with 2, 4 of them per step" in said
    assert recorded(run)["micro_batch_size"] == 2


def test_a_resumed_run_does_not_run_out_of_memory_again(
    runs: Any, room_for: Callable[[int], list[int]], stopping_after: Any
) -> None:
    tried = room_for(4)
    sections: dict[str, Any] = {"training": SIZES, "evaluation": {"batch_size": 4}}
    with stopping_after(2), pytest.raises(Interrupted):
        runs.train(**sections)
    assert 8 in tried
    tried.clear()
    run = runs.train(**sections, resume="auto")
    assert max(tried) == 4
    assert run.json("status.json")["state"] == "finished"


def test_one_sequence_that_does_not_fit_ends_the_run(
    runs: Any, room_for: Callable[[int], list[int]]
) -> None:
    runs.train(training={**SIZES, "max_steps": 2}, evaluation={"every": None})
    room_for(0)
    with pytest.raises(ResourceError, match="one validation sequence"):
        runs.train("second", training=SIZES)
    assert runs.at("second").json("status.json")["exit_code"] == 6


def test_training_that_does_not_fit_at_all_names_the_remedies(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Losses:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(MaskedHead, "losses", refuse)
    with pytest.raises(ResourceError, match="gradient_checkpointing: true") as caught:
        runs.train(training=SIZES)
    assert caught.value.exit_code == 6


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Losses:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(MaskedHead, "losses", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        runs.train(training=SIZES)


def test_evaluation_measures_the_same_in_smaller_batches(
    runs: Any, room_for: Callable[[int], list[int]]
) -> None:
    evaluation = {"every": None, "batch_size": 16}
    training = {**SIZES, "micro_batch_size": 2}
    expected = runs.train("expected", training=training, evaluation=evaluation)
    tried = room_for(5)
    run = runs.train(training=training, evaluation=evaluation)
    assert run.evaluations == pytest.approx(expected.evaluations, rel=1e-6)
    assert max(tried) > 5


# ---------------------------------------------------------------------------------------- auto


@pytest.fixture
def sizes_asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine whose memory holds micro batches of up to three sequences."""
    asked = []
    estimate = memory.estimate_memory

    def estimate_and_note(task: Any, micro_batch_size: int, *arguments: Any) -> Memory:
        asked.append(micro_batch_size)
        most = estimate(task, 3, *arguments)
        monkeypatch.setattr(memory, "available_bytes", lambda: most.total - most.weights)
        return estimate(task, micro_batch_size, *arguments)

    monkeypatch.setattr(memory, "estimate_memory", estimate_and_note)
    return asked


def test_auto_finds_the_largest_by_halving_and_keeps_to_it(
    runs: Any, sizes_asked: list[int], stopping_after: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {**SIZES, "micro_batch_size": "auto"}
    with stopping_after(2), pytest.raises(Interrupted):
        runs.train(training=training)
    assert sizes_asked == [8, 4, 2]
    assert "micro batches of 2 fit" in capsys.readouterr().out
    assert recorded(runs.at())["micro_batch_size"] == 2
    run = runs.train(training=training, resume="auto")
    assert sizes_asked == [8, 4, 2]  # asked once
    assert recorded(run)["micro_batch_size"] == 2


def test_auto_is_recorded_where_the_first_size_fits(runs: Any) -> None:
    run = runs.train(training={**SIZES, "micro_batch_size": "auto"})
    assert recorded(run)["micro_batch_size"] == 8


def test_a_larger_micro_batch_than_fitted_is_not_taken_without_a_word(
    runs: Any, room_for: Callable[[int], list[int]], stopping_after: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    room_for(4)
    sections: dict[str, Any] = {
        "training": {**SIZES, "micro_batch_size": 8}, "evaluation": {"batch_size": 4},
    }  # fmt: skip
    with stopping_after(2), pytest.raises(Interrupted):
        runs.train(**sections)
    runs.train(**sections, resume="auto")
    assert "micro batches of 4 as in this run so far, not of 8" in capsys.readouterr().out


def test_a_trial_on_a_device_leaves_no_trace(
    runs: Any, room_for: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does for `auto`, on this device."""
    expected = runs.train("expected", training={**SIZES, "micro_batch_size": 4})
    tried = room_for(4)
    monkeypatch.setattr(memory, "fits_by_estimate", memory.fits_by_trial)
    run = runs.train(training={**SIZES, "micro_batch_size": "auto"})
    assert tried.index(8) < tried.index(4)
    assert recorded(run)["micro_batch_size"] == 4
    assert run.model_bytes == expected.model_bytes


@pytest.mark.parametrize(
    ("output_layer", "device", "expected"),
    [
        (None, "cpu", 512 * 256_000),
        ("linear", "cpu", LOGITS_AT_ONCE["cpu"]),
        ("linear", "cuda", 512 * 256_000),
    ],
)
def test_the_estimate_counts_the_logits_that_exist_at_a_time(
    output_layer: str | None, device: str, expected: int
) -> None:
    embeddings = SimpleNamespace(num_embeddings=256_000)
    task: Any = SimpleNamespace(
        config=SimpleNamespace(
            chunking=SimpleNamespace(chunk_length=128),
            phases=[SimpleNamespace(name="long", chunk_length=256)],
        ),
        sequences=(SimpleNamespace(rate=0.25), SimpleNamespace(rate=0.15)),
        loaded=SimpleNamespace(model=SimpleNamespace(get_input_embeddings=lambda: embeddings)),
        setup=SimpleNamespace(head=SimpleNamespace(is_sparse=True, output_layer=output_layer)),
    )
    shape = MaskedLM.memory_shape(task, 8, torch.device(device))
    assert shape == (256, expected)


def test_the_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_of_the_machine = SimpleNamespace(available=9000)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: memory_of_the_machine)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_bytes() == 9000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() == 9000
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1500\nactive_file 500\ninactive_file 2000\n")
    assert memory.available_bytes() == 5000 - 4000 + 2500  # the file cache gives way


def test_several_processes_are_told_how_to_go_on(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = loop.take_step

    def refuse(*_: Any) -> Losses:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def with_a_neighbour(learner: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(type(learner.accelerator), "num_processes", 2)
        return take_step(learner, *arguments)

    monkeypatch.setattr(MaskedHead, "losses", refuse)
    monkeypatch.setattr(loop, "take_step", with_a_neighbour)
    with pytest.raises(ResourceError, match=r"--resume auto training\.micro_batch_size=4"):
        runs.train(training=SIZES)
