"""The table of `check`: each GPU's part of what a run holds."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, PreTrainedConfig

from mlmtune.config import Config
from mlmtune.training.memory_table import memory_table
from mlmtune.training.plan import Phase, Plan

LARGE = BertConfig(
    hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, intermediate_size=8192
)
CPU = torch.device("cpu")


def lines(model_config: PreTrainedConfig, **training: Any) -> dict[str, Sequence[str]]:
    """Return the cells of each row by its name; a name that comes again has a number."""
    config = Config.model_validate(
        {
            "run": {"output_dir": "run"},
            "model": {"name_or_path": "large"},
            "corpus": {"sources": [{"format": "text", "path": "."}]},
            "training": training,
        }
    )
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(model_config)
    phase = Phase.of(config.training, config.optimizer, num_chunks=1000, num_tokens=10**6)
    task: Any = SimpleNamespace(
        config=config,
        loaded=SimpleNamespace(model=model),
        plan=Plan.of([phase], config.training, num_processes=1),
        memory_shape=lambda size, device: (512, size * 512 * 1000),
    )
    rows: dict[str, Sequence[str]] = {}
    for line in memory_table(config, task, CPU):
        name, *cells = (cell.strip() for cell in line.split("  ") if cell.strip())
        rows[name if name not in rows else f"{name} {len(rows)}"] = cells
    return rows


def test_a_step_keeps_its_size_and_sharding_divides_the_moments() -> None:
    rows = lines(LARGE, global_batch_size=32, micro_batch_size=8)
    assert rows["GB in bf16"] == ["1 GPU", "2 GPUs", "8 GPUs"]
    assert rows["micro batch"] == ["8", "8", "4"]
    assert len(set(rows["AdamW's moments"])) == 1
    sharded = lines(LARGE, global_batch_size=32, micro_batch_size=8, shard_optimizer=True)
    moments = [float(cell) for cell in sharded["AdamW's moments"]]
    assert moments[0] == float(rows["AdamW's moments"][0])
    assert moments[1] == pytest.approx(moments[0] / 2, abs=0.1)
    assert moments[2] == pytest.approx(moments[0] / 8, abs=0.1)


def test_a_run_that_needs_a_larger_card_is_shown_what_saves_memory() -> None:
    rows = lines(LARGE, global_batch_size=16)
    assert rows["fits a card of"] == ["80 GB", "40 GB", "40 GB"]
    with_both = [float(cell) for cell in rows["with both"]]
    for name in ("with gradient_checkpointing", "with shard_optimizer"):
        cells = [float(cell) for cell in rows[name]]
        assert all(both <= one for both, one in zip(with_both, cells, strict=True))
    rows = lines(LARGE, global_batch_size=16, gradient_checkpointing=True, shard_optimizer=True)
    assert not any(name.startswith("with ") for name in rows)
    assert [float(cell) for cell in rows["each GPU"]] == with_both


def test_what_fits_the_smallest_card_needs_no_advice_and_fewer_sequences_fewer_gpus() -> None:
    rows = lines(BertConfig(), global_batch_size=4, precision="fp32")
    assert rows["GB in fp32"] == ["1 GPU", "2 GPUs"]
    assert rows["fits a card of"] == ["24 GB", "24 GB"]
    assert list(rows)[-1] == "fits a card of"
    assert "weights in 16 bits" not in rows
