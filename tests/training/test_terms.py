"""A task may have any number of terms in its loss; the loop knows them by name alone."""

import math
from typing import Any

import pytest
import torch
from runs import assert_same_course_from
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional

from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import DivergedError
from mlmtune.masking.collator import MaskedBatch
from mlmtune.modeling.device import build_accelerator
from mlmtune.modeling.losses import Losses
from mlmtune.training import loop
from mlmtune.training.masked_lm import MaskedLM, build_masked_lm
from mlmtune.training.run_options import RunOptions

NAMES = ("loss", "copy_loss", "size_loss", "copy_accuracy")
TRACKED = {"tracking": {"with": ["tensorboard"], "run_name": "tracked"}}


class ThreeTerms(MaskedLM):
    """Beside masked tokens it learns to copy the others, and to keep logits small."""

    def losses(self, model: Any, batch: MaskedBatch) -> Losses:
        logits = model(**batch.model_inputs()).logits.float()
        is_masked = batch.labels >= 0
        copies, originals = logits[~is_masked], batch.input_ids[~is_masked]
        return Losses(
            {
                "loss": functional.cross_entropy(
                    logits[is_masked], batch.labels[is_masked], reduction="sum"
                ),
                "copy_loss": functional.cross_entropy(copies, originals, reduction="sum"),
                "size_loss": logits[:, 0].square().mean(dim=-1).sum(),
            },
            {"copy_accuracy": (copies.argmax(dim=-1) == originals).sum()},
        )

    def num_targets(self, batch: MaskedBatch) -> dict[str, int]:
        num_copies = batch.labels.numel() - batch.num_masked_tokens
        return {
            "loss": batch.num_masked_tokens,
            "copy_loss": num_copies,
            "size_loss": len(batch.labels),
            "copy_accuracy": num_copies,
        }


def build(config: Any, accelerator: Any, console: Console) -> ThreeTerms:
    return ThreeTerms(**vars(build_masked_lm(config, accelerator, console)))


def train(runs: Any, name: str = "run", *, resume: str = "never", **sections: Any) -> Any:
    loop.train(load_config(runs.config(name, **sections)), RunOptions(resume), build)
    return runs.at(name)


def training_lines(run: Any) -> list[dict[str, Any]]:
    return [record for record in run.metrics if "loss" in record]


def test_the_names_of_all_terms_arrive_wherever_metrics_go(
    runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(runs, **TRACKED, training={"log_every": 3})
    lines = training_lines(run)
    assert [line["step"] for line in lines] == [3, 6]
    shown = capsys.readouterr().out
    for line in lines:
        assert "  ".join(f"{name} {line[name]:.3f}" for name in NAMES) in shown
    tracked = EventAccumulator(str(run.path / "tensorboard" / "tracked"))
    tracked.Reload()
    for name in NAMES:
        arrived = [event.value for event in tracked.Scalars(f"train/{name}")]
        assert arrived == pytest.approx([line[name] for line in lines], rel=1e-6)


def test_each_term_is_divided_by_its_own_number_of_targets(runs: Any) -> None:
    """Of the whole step, however it is cut: the gradient is that of one sum of three means."""
    sections = {"training": {"max_steps": 1, "micro_batch_size": 3}}
    [line] = training_lines(train(runs, **sections))
    config = load_config(runs.config("whole", training={"max_steps": 1, "micro_batch_size": 8}))
    task = build(config, build_accelerator("fp32"), Console(is_quiet=True))
    (batch,) = task.stream.micro_batches(0)
    losses, num_targets = task.losses(task.loaded.model.train(), batch), task.num_targets(batch)
    means = {name: total / num_targets[name] for name, total in losses.terms.items()}
    for name, mean in means.items():
        assert line[name] == pytest.approx(mean.item(), rel=1e-6)
    accuracy = losses.tallies["copy_accuracy"].item() / num_targets["copy_accuracy"]
    assert line["copy_accuracy"] == pytest.approx(accuracy, rel=1e-6)
    sum(means.values(), torch.zeros(())).backward()
    gradients = [p.grad.flatten() for p in task.loaded.model.parameters() if p.grad is not None]
    assert line["grad_norm"] == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-5)


def test_a_window_goes_on_where_a_run_is_resumed(runs: Any) -> None:
    """The second log line is of steps 4 to 6, of which one was taken before the interruption."""
    expected = train(runs, "expected", training={"log_every": 3})
    checkpoint = expected.checkpoint(4)
    resumed = train(runs, "resumed", training={"log_every": 3}, resume=str(checkpoint))
    assert_same_course_from(4, resumed, expected)


def test_the_term_that_is_no_number_is_named(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = ThreeTerms.losses

    def broken(task: ThreeTerms, model: Any, batch: MaskedBatch) -> Losses:
        sums = losses(task, model, batch)
        return Losses(sums.terms | {"size_loss": sums.terms["size_loss"] * math.nan}, sums.tallies)

    monkeypatch.setattr(ThreeTerms, "losses", broken)
    with pytest.raises(DivergedError, match="the size_loss of step 1 is nan"):
        train(runs)
