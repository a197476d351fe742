"""train(): from a config to a result that others can load, by the promises made for it."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForMaskedLM, BertModel, pipeline

from mlmtune.cli import app
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import CheckpointError, ConfigError, DataError, DivergedError
from mlmtune.modeling.device import build_accelerator
from mlmtune.modeling.losses import Losses
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.training import loop
from mlmtune.training.checkpoint import find_fault
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.outcome import outcome
from mlmtune.training.run_dir import OWN_FILES

WITH_DROPOUT = {"dropout": 0.1}


def assert_same_course(one: Any, two: Any, tolerance: float = 1e-5) -> None:
    """The same metrics, but for rounding."""
    for record, expected in zip(one.metrics, two.metrics, strict=True):
        for key in ("step", "loss", "grad_norm", "num_tokens", "num_masked_tokens", "eval_loss"):
            if key in expected:
                assert record[key] == pytest.approx(expected[key], rel=tolerance)


SMOOTH = {"adam_epsilon": 1e-3}
"""Adam's step follows the gradient, so that rounding of a gradient of 0 makes no step."""


def assert_close(one: Any, two: Any, tolerance: float = 1e-5) -> None:
    """Every weight within `tolerance` of the largest of its tensor."""
    weights = one.weights
    assert weights.keys() == two.weights.keys()
    for name, expected in two.weights.items():
        size = max(float(expected.abs().max()), 1e-3)
        assert float((weights[name] - expected).abs().max()) <= tolerance * size, name


# ------------------------------------------------------------------------------- a whole run


def test_a_run_writes_what_it_promises(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    example = "create a storage [MASK] ."
    run = runs.train(
        training={"max_steps": 30, "log_every": 5},
        optimizer={"learning_rate": 0.03},
        evaluation={"every": 10, "examples": [example]},
        checkpoint={"every": 15},
    )
    assert {path.name for path in run.path.iterdir()} == {
        "config.yaml", "config.resolved.yaml", "environment.json", "corpus.json", "metrics.jsonl",
        "status.json", "train_results.json", "eval_results.json", "all_results.json", "model",
        "checkpoints", "MANIFEST.json", ".lock",
    }  # fmt: skip
    of_others = {
        *("report.html", "report.md", "report.json", "probe.json"),  # of a run that has ended
        *("data.json", "test_results.json", "test_predictions.jsonl"),  # of a classifier
        "tracking.json",  # of a run that is tracked
        "attempt.json",  # of one that has not begun yet
        "lineage.json",  # of one that goes on from another
    }
    assert set(OWN_FILES) - of_others <= {path.name for path in run.path.iterdir()}
    assert {path.name for path in run.checkpoint(30).iterdir()} >= {
        "config.json", "model.safetensors", "tokenizer.json", "optimizer.safetensors",
        "state.json", "MANIFEST.json",
    }  # fmt: skip
    assert run.checkpoint_steps == [20, 30]  # 20 was the best when it was taken

    train, evaluation, everything = (
        run.json(f"{name}_results.json") for name in ("train", "eval", "all")
    )
    assert train.keys() >= {
        "epoch", "global_step", "total_flos", "train_loss", "train_runtime",
        "train_samples_per_second", "train_steps_per_second", "train_tokens_per_second",
        "num_tokens", "num_masked_tokens", "peak_memory_bytes",
    }  # fmt: skip
    assert evaluation.keys() >= {
        "loss", "perplexity", "perplexity_interval", "accuracy", "num_masked_tokens",
        "num_chunks", "perplexity_before", "perplexity_before_interval", "loss_before", "step",
    }  # fmt: skip
    assert everything == {**train, **{f"eval_{key}": value for key, value in evaluation.items()}}
    assert train["global_step"] == 30
    assert evaluation["perplexity"] < 0.9 * evaluation["perplexity_before"]
    assert evaluation["perplexity"] == pytest.approx(math.exp(evaluation["loss"]))
    low, high = evaluation["perplexity_interval"]
    assert low < evaluation["perplexity"] < high

    status = run.json("status.json")
    assert (status["state"], status["exit_code"], status["step"]) == ("finished", 0, 30)
    assert load_config(run.path / "config.resolved.yaml").training.max_steps == 30
    assert run.json("corpus.json")["documents"]["kept"] == 40
    shown = capsys.readouterr().out
    assert f"{evaluation['perplexity_before']:.2f} before" in shown
    assert f"{evaluation['perplexity']:.2f} after" in shown
    assert example in shown
    assert str(run.path / "model") in shown
    assert re.search(r"about \d+:\d\d for the whole run, evaluations included; done around ", shown)


def test_metrics_are_json_lines(runs: Any) -> None:
    run = runs.train(training={"log_every": 2}, evaluation={"every": 3})
    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [r["step"] for r in records if "loss" in r] == [2, 4, 6]
    assert [r["step"] for r in records if "eval_loss" in r] == [0, 3, 6]
    keys = {"step", "epoch", "loss", "learning_rate", "mlm_probability", "grad_norm", "num_tokens",
            "num_masked_tokens", "tokens_per_second"}  # fmt: skip
    for record in records:
        assert "eval_loss" in record or record.keys() == keys
    # The lines' losses, weighted by their tokens (which count since the start), are the run's.
    logged = [r for r in records if "loss" in r]
    num_masked = np.asarray([r["num_masked_tokens"] for r in logged])
    weights = np.diff(num_masked, prepend=0)
    results = run.json("train_results.json")
    assert results["num_masked_tokens"] == num_masked[-1]
    mean_loss = np.average([r["loss"] for r in logged], weights=weights)
    assert results["train_loss"] == pytest.approx(mean_loss)
    assert results["num_tokens"] == logged[-1]["num_tokens"]


@pytest.fixture
def finished(runs: Any) -> Any:
    return runs.train()


def test_the_model_loads_elsewhere(finished: Any) -> None:
    folder = finished.path / "model"
    fill = pipeline("fill-mask", model=str(folder))
    assert len(fill("the [MASK] cluster")) == 5
    model = AutoModelForMaskedLM.from_pretrained(folder)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    for name, weight in finished.weights.items():
        assert torch.equal(model.state_dict()[name], weight)


def test_eval_repeats_the_perplexity(
    finished: Any, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for batch_size in (32, 5):
        config = runs.config(evaluation={"batch_size": batch_size})
        app(args=["eval", "--model", str(finished.path / "model"), "--config", str(config),
                  "--json"], standalone_mode=False)  # fmt: skip
        [measured] = json.loads(capsys.readouterr().out)
        written = finished.json("eval_results.json")
        for key in ("perplexity", "loss", "accuracy", "num_masked_tokens", "num_chunks"):
            assert measured[key] == pytest.approx(written[key], rel=1e-6)


def test_a_base_without_a_head_gets_a_new_one_and_says_so(
    runs: Any, model_dir: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "headless"
    BertModel.from_pretrained(model_dir).save_pretrained(base)
    tokenizer.save_pretrained(base)
    one = runs.train("one", model={"name_or_path": str(base)}, training={"max_steps": 1})
    said = capsys.readouterr().out
    assert "has no masked-LM head" in said
    results = one.json("eval_results.json")
    assert results["model_head_was_new"] is True
    assert not results["worse_than_base"]
    assert f"token frequencies alone: {results['token_frequency_accuracy']:.1%}" in said
    two = runs.train("two", model={"name_or_path": str(base)}, training={"max_steps": 1})
    assert one.model_bytes == two.model_bytes


# ------------------------------------------------------------ the same run, the same result


@pytest.mark.parametrize("model", [{}, WITH_DROPOUT])
def test_the_same_config_gives_the_same_bits(runs: Any, model: dict[str, float]) -> None:
    one, two = (runs.train(name, model=model) for name in ("one", "two"))
    assert one.model_bytes == two.model_bytes
    assert one.metrics == two.metrics


def test_another_seed_gives_another_model(runs: Any) -> None:
    one, two = (runs.train(f"seed{seed}", run={"seed": seed}) for seed in (1, 2))
    assert one.model_bytes != two.model_bytes
    assert one.evaluations[0] == two.evaluations[0]  # measured on the same masks


def test_dropout_is_drawn_anew_for_each_step(runs: Any) -> None:
    with_dropout, without = runs.train("with", model=WITH_DROPOUT), runs.train("without")
    assert with_dropout.losses != without.losses
    # None while measuring; attention is computed in another way, which may round otherwise.
    assert with_dropout.evaluations[0] == pytest.approx(without.evaluations[0], rel=1e-6)


@pytest.fixture
def whole_batch(runs: Any) -> Any:
    return runs.train("whole", optimizer=SMOOTH, training={"max_steps": 3, "micro_batch_size": 8})


def test_micro_batches_draw_the_same_dropout(runs: Any) -> None:
    sections: dict[str, Any] = {"optimizer": SMOOTH, "model": WITH_DROPOUT}
    whole = runs.train("whole", training={"max_steps": 3, "micro_batch_size": 8}, **sections)
    split = runs.train("split", training={"max_steps": 3, "micro_batch_size": 3}, **sections)
    assert_same_course(split, whole)
    assert_close(split, whole)


@pytest.mark.parametrize("micro", [4, 3, 2, 1])
def test_micro_batches_give_the_same_weights(runs: Any, whole_batch: Any, micro: int) -> None:
    run = runs.train(
        "split", optimizer=SMOOTH, training={"max_steps": 3, "micro_batch_size": micro}
    )
    assert_same_course(run, whole_batch)
    assert_close(run, whole_batch)


@pytest.fixture
def uneven_corpus(tmp_path: Path) -> Path:
    """Documents of 2 words and of 40: their chunks have very different numbers of masks."""
    folder = tmp_path / "uneven"
    folder.mkdir()
    for number in range(20):
        words = ["storage", "account"] if number % 2 else ["the", "cluster", "node", "pool"] * 10
        text = f"{' '.join(words)} {number}"
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def test_every_masked_token_weighs_the_same(runs: Any, uneven_corpus: Path) -> None:
    sections = {
        "corpus": {"sources": [{"format": "text", "path": str(uneven_corpus)}]},
        "chunking": {"mode": "per_document", "chunk_length": 48},
        "training": {"max_steps": 1, "micro_batch_size": 1},
    }
    run = runs.train(**sections)
    first = next(record for record in run.metrics if "loss" in record)

    config = load_config(runs.config(**sections))
    parts = build_masked_lm(config, build_accelerator("fp32"), Console(is_quiet=True))
    model = AutoModelForMaskedLM.from_pretrained(config.model.name_or_path)
    means, losses = [], []
    for batch in parts.stream.micro_batches(0):
        if batch.num_masked_tokens:
            logits = model(**batch.model_inputs()).logits.reshape(-1, model.config.vocab_size)
            token_losses = functional.cross_entropy(
                logits, batch.labels.reshape(-1), reduction="none", ignore_index=-100
            )[batch.masked_positions]
            losses.append(token_losses)
            means.append(token_losses.mean())
    loss = torch.cat(losses).mean()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])

    assert first["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert first["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert first["num_masked_tokens"] == sum(map(len, losses))
    # The mean of means would be told apart.
    assert abs(torch.stack(means).mean() - loss) > 1e-4 * loss


def test_gradient_checkpointing_changes_memory_alone(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    take_step = loop.take_step

    def spy(learner: Any, task: Any, state: Any, *arguments: Any) -> Any:
        layer = learner.module.bert.encoder.layer[0].attention
        with layer.register_forward_hook(lambda *_: calls.append(state.step)):
            return take_step(learner, task, state, *arguments)

    monkeypatch.setattr(loop, "take_step", spy)
    plain = runs.train("plain", model=WITH_DROPOUT, training={"max_steps": 3})
    assert calls == [0, 1, 2]
    calls.clear()
    saving = runs.train(
        "saving", model=WITH_DROPOUT, training={"max_steps": 3, "gradient_checkpointing": True}
    )
    assert calls == [0, 0, 1, 1, 2, 2]  # once more in each backward pass
    assert_same_course(saving, plain)


# ----------------------------------------------------------------------------- when to stop


def test_early_stopping_waits_for_its_patience(
    runs: Any, worse_after: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    worse_after(3)
    run = runs.train(
        training={"max_steps": 30, "early_stopping_patience": 2}, evaluation={"every": 1}
    )
    losses = run.evaluations
    best = min(losses, key=lambda step: losses[step] if step else math.inf)
    assert max(losses) == best + 2
    said = capsys.readouterr().out
    assert f"ended after step {best + 2} of 30: 2 evaluations in a row without a better" in said
    assert run.json("train_results.json")["global_step"] == best + 2
    assert run.json("eval_results.json")["step"] == best
    assert run.json("status.json")["state"] == "finished"


def test_max_minutes_stops_and_bends_nothing(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    full = runs.train("full", training={"max_steps": 12})
    short = runs.train("short", training={"max_steps": 12, "max_minutes": 1e-9})
    taken = short.json("train_results.json")["global_step"]
    assert 1 <= taken <= 3
    said = capsys.readouterr().out
    assert said.count("ended after step") == 1
    assert "of 12: training.max_minutes: 1e-09 are over, with the learning rate still" in said
    steps = [[r for r in run.metrics if "loss" in r][:taken] for run in (short, full)]
    assert steps[0] == steps[1]
    assert short.json("eval_results.json")["step"] == taken  # measured and exported all the same
    assert (short.path / "model" / "model.safetensors").is_file()


def test_max_tokens_ends_a_run(runs: Any) -> None:
    run = runs.train(training={"max_tokens": 300})
    results = run.json("train_results.json")
    assert (results["global_step"], results["num_tokens"]) == (3, 3 * 8 * 16)


# ----------------------------------------------------------------------- what is kept of it


@pytest.mark.parametrize("export", ["best", "last"])
def test_export(runs: Any, worse_after: Callable[[int], None], export: str) -> None:
    worse_after(3)
    run = runs.train(checkpoint={"every": 1, "keep": 6, "export": export}, evaluation={"every": 3})
    assert run.evaluations[6] > run.evaluations[3]
    step = {"best": 3, "last": 6}[export]
    assert run.json("eval_results.json")["step"] == step
    assert run.json("eval_results.json")["loss"] == run.evaluations[step]
    assert run.model_bytes == (run.checkpoint(step) / "model.safetensors").read_bytes()
    assert run.model_bytes != (run.checkpoint(9 - step) / "model.safetensors").read_bytes()


def test_a_run_that_only_got_worse_says_so(
    runs: Any, worse_after: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    worse_after(0)
    run = runs.train()
    assert "; worse than before training" in capsys.readouterr().out
    results = run.json("eval_results.json")
    assert results["worse_than_base"]
    assert results["loss"] > results["loss_before"]
    assert results["step"] == min((3, 6), key=lambda step: run.evaluations[step])
    assert "not better than its base" in (run.path / "model" / "README.md").read_text("utf-8")
    assert outcome(run.json("all_results.json")).startswith("worse. The model is worse than its")


@pytest.mark.parametrize(
    ("export", "keep", "kept"),
    [("best", 1, [2, 6]), ("best", 2, [2, 5, 6]), ("last", 2, [5, 6]), ("best", 9, [1, 2, 3, 4, 5,
      6])],
)  # fmt: skip
def test_the_newest_checkpoints_and_the_best_are_kept(
    runs: Any, worse_after: Callable[[int], None], export: str, keep: int, kept: list[int]
) -> None:
    worse_after(2)
    run = runs.train(
        checkpoint={"every": 1, "keep": keep, "export": export}, evaluation={"every": 2}
    )
    assert run.checkpoint_steps == kept
    assert all(find_fault(run.checkpoint(step)) is None for step in kept)


# --------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nothing_is_trained_on_a_loss_that_is_no_number(
    runs: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    modules: list[Any] = []  # the model at each step
    losses = MaskedHead.losses

    def broken(head: MaskedHead, model: Any, batch: Any) -> Losses:
        modules.append(model)
        loss = losses(head, model, batch).terms["loss"]
        if len(modules) == 3:
            if where == "loss":
                return Losses({"loss": loss * math.nan})
            loss.register_hook(lambda gradient: gradient * math.inf)
        return Losses({"loss": loss})

    monkeypatch.setattr(MaskedHead, "losses", broken)
    with pytest.raises(DivergedError, match=f"the {where} of step 3 is (nan|inf)") as caught:
        runs.train()
    assert caught.value.exit_code == 5
    run = runs.at()
    assert run.checkpoint_steps == [2]
    assert find_fault(run.checkpoint(2)) is None
    saved = load_file(run.checkpoint(2) / "model.safetensors")
    for name, weight in modules[0].state_dict().items():
        if name in saved:
            assert torch.equal(weight, saved[name])
            assert weight.isfinite().all()
    status = run.json("status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 5)
    assert not (run.path / "model").exists()


def test_a_base_of_broken_weights_is_refused(
    runs: Any, model_dir: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = AutoModelForMaskedLM.from_pretrained(model_dir)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[0, 0] = math.nan
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    with pytest.raises(ConfigError, match="weights that are not finite numbers"):
        runs.train(model={"name_or_path": str(tmp_path / "broken")})
    assert runs.at().checkpoint_steps == []


def test_batches_without_masked_tokens_are_finite_steps(runs: Any) -> None:
    run = runs.train(masking={"mlm_probability": 1e-12})
    assert run.losses == [0.0] * 6
    assert run.json("train_results.json")["num_masked_tokens"] == 0
    assert all(weight.isfinite().all() for weight in run.weights.values())


def test_a_used_directory_is_refused(finished: Any, runs: Any) -> None:
    before = finished.times()
    with pytest.raises(ConfigError) as caught:
        runs.train()
    assert "--resume" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert finished.times() == before


def test_a_finished_run_does_not_go_on_with_other_settings(finished: Any, runs: Any) -> None:
    before = finished.times()
    with pytest.raises(CheckpointError, match=r"training\.max_steps: 6 then, 8 now") as caught:
        runs.train(resume="auto", training={"max_steps": 8})
    assert caught.value.exit_code == 4
    assert finished.times() == before


def test_overwrite_spares_the_old_run_until_the_new_one_is_known_to_start(
    finished: Any, runs: Any, tmp_path: Path
) -> None:
    before = finished.model_bytes
    sources = [{"format": "text", "path": str(tmp_path / "nowhere")}]
    with pytest.raises(DataError):
        runs.train(overwrite=True, corpus={"sources": sources})
    assert finished.model_bytes == before
    assert finished.checkpoint_steps


def test_overwrite_does_not_delete_the_model_it_starts_from(finished: Any, runs: Any) -> None:
    with pytest.raises(ConfigError, match=r"--overwrite would delete model\.name_or_path"):
        runs.train(overwrite=True, model={"name_or_path": str(finished.path / "model")})
    assert finished.model_bytes


def test_a_checkpoint_that_is_not_there_is_told_before_anything_is_loaded(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runs.build_masked_lm", None)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        runs.train(resume="nowhere/checkpoint-3")


def test_files_that_are_left_out_are_said(
    runs: Any, tmp_path: Path, corpus_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").touch()
    paths = [str(corpus_dir), str(tmp_path / "empty.txt")]
    run = runs.train(
        corpus={"sources": [{"format": "text", "path": paths}]}, training={"max_steps": 1}
    )
    assert f"files left out: empty 1; see {run.path / 'corpus.json'}" in capsys.readouterr().out


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(finished: Any, runs: Any) -> None:
    notes = finished.path / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    (finished.path / "plots").mkdir()
    runs.train(overwrite=True, training={"max_steps": 2})
    assert notes.read_text(encoding="utf-8") == "mine"
    assert (finished.path / "plots").is_dir()
    assert finished.checkpoint_steps == [2]
    assert [record["step"] for record in finished.metrics] == [0, 1, 2, 2]
