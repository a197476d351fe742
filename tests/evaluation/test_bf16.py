"""The promise for bf16: the same perplexity for every batch size, to 1e-4."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mlmtune.cli import app

BATCH_SIZES = (1, 3, 8, 32)

# In a process of its own: the variable is read when torch is imported. Without it, some virtual
# machines that announce AMX and have none die of an illegal instruction.
CHILD = """
import sys
from mlmtune.cli import app
model, config, *batch_sizes = sys.argv[1:]
for size in batch_sizes:
    app(args=["eval", "--model", model, "--config", config, "--json", "training.precision=bf16",
              f"evaluation.batch_size={size}"], standalone_mode=False)
    print("---")
"""


@pytest.fixture
def large_model(model_dir, tokenizer, tmp_path):
    """Weights large enough that tokens differ in their losses, and bf16 from fp32."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(model_dir)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path / "large")
    tokenizer.save_pretrained(tmp_path / "large")
    return tmp_path / "large"


def test_it_does_not_depend_on_the_batch_size(config_file, large_model, corpus_dir, capsys):
    config = config_file(
        corpus={
            "sources": [{"format": "text", "path": str(corpus_dir)}], "validation_fraction": 0.9
        },
        chunking={"mode": "per_document", "chunk_length": 64},
    )  # fmt: skip
    child = subprocess.run(
        [sys.executable, "-c", CHILD, large_model, config, *map(str, BATCH_SIZES)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    first, *others = [json.loads(text)[0] for text in child.stdout.split("---\n") if text]
    assert len(others) == len(BATCH_SIZES) - 1
    for other in others:
        assert other["perplexity"] == pytest.approx(first["perplexity"], rel=1e-4)
        assert other["num_masked_tokens"] == first["num_masked_tokens"] > 200

    capsys.readouterr()
    app(args=["eval", "--model", str(large_model), "--config", str(config), "--json"],
        standalone_mode=False)  # fmt: skip
    [in_fp32] = json.loads(capsys.readouterr().out)
    assert in_fp32["num_masked_tokens"] == first["num_masked_tokens"]
    assert in_fp32["loss"] == pytest.approx(first["loss"], rel=1e-2)
    assert in_fp32["loss"] != pytest.approx(first["loss"], rel=1e-5)  # it was bf16 indeed
