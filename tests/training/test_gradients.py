"""Every masked token weighs the same, however a step is divided, in each architecture."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from first_gradient import first_gradient
from launching import TIMEOUT_SECONDS, environment, torchrun
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM

from mlmtune.modeling import masked_head

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 70, "pad_token_id": 0,
}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

# model type -> its config, apart from AutoConfig's defaults
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SIZES | NO_DROPOUT,
    "distilbert": {
        "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 70,
        "dropout": 0.0, "attention_dropout": 0.0,
    },
    "roberta": SIZES | NO_DROPOUT,
    "albert": SIZES | NO_DROPOUT | {"embedding_size": 8},
    "deberta-v2": SIZES | NO_DROPOUT | {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
    },
    "modernbert": SIZES | {
        "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3,
    },
}  # fmt: skip

NUM_SEQUENCES = 64
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def models(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small model of a type."""
    folder = tmp_path_factory.mktemp("architectures")

    def make(model_type: str) -> Path:
        path = folder / model_type
        if not path.exists():
            settings = {"vocab_size": len(tokenizer), **ARCHITECTURES[model_type]}
            model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(model_type, **settings))
            torch.manual_seed(0)
            # Weights as drawn give gradients that are much alike for all tokens.
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.2)
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
        return path

    return make


@pytest.fixture(scope="module")
def uneven_corpus(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of 2 to 40 words, so that sequences differ in their masked tokens, too."""
    folder = tmp_path_factory.mktemp("uneven")
    words = sorted(filter(str.isalpha, tokenizer.get_vocab()))
    draw = random.Random(0)
    for number in range(NUM_SEQUENCES + 16):
        text = " ".join(draw.choices(words, k=draw.choice((2, 3, 8, 25, 40))))
        (folder / f"{number:02}.txt").write_text(f"{number} {text}", encoding="utf-8")
    return folder


@pytest.fixture
def one_step(
    config_file: Callable[..., Path],
    models: Callable[[str], Path],
    uneven_corpus: Path,
    tmp_path: Path,
) -> Callable[..., Path]:
    """Writes the config of a run of one step."""

    def write(name: str, model_type: str, micro_batch_size: int) -> Path:
        return config_file(
            f"{name}.yaml",
            run={"output_dir": str(tmp_path / f"run-{name}")},
            model={"name_or_path": str(models(model_type))},
            corpus={
                "sources": [{"format": "text", "path": str(uneven_corpus)}],
                "validation_fraction": 0.05,
            },
            chunking={"mode": "per_document", "chunk_length": 48},
            optimizer={"max_grad_norm": 1e9},
            training={
                "max_steps": 1,
                "global_batch_size": NUM_SEQUENCES,
                "micro_batch_size": micro_batch_size,
            },
        )

    return write


def assert_same_gradient(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """The whole and each parameter's, relative to its size.

    Some are zero but for rounding (the bias of attention's keys): there a thousandth of the whole
    gradient is what counts as size.
    """
    assert one.keys() == other.keys()
    whole = torch.cat([gradient.double().flatten() for gradient in other.values()]).norm()
    differences = {name: (one[name].double() - other[name].double()).norm() for name in other}
    assert torch.stack(list(differences.values())).norm() <= TOLERANCE * whole
    for name, difference in differences.items():
        size = torch.maximum(other[name].double().norm(), whole / 1000)
        assert difference <= TOLERANCE * size, name


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_micro_batches_add_up_to_the_gradient_of_the_whole(
    one_step: Callable[..., Path], model_type: str
) -> None:
    whole, *divided = (
        first_gradient(one_step(f"{model_type}-{size}", model_type, size)) for size in (64, 16, 4)
    )
    for gradient in divided:
        assert_same_gradient(gradient, whole)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_head_on_masked_positions_gives_the_gradient_of_the_whole_head(
    one_step: Callable[..., Path],
    model_type: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sparse = first_gradient(one_step("sparse", model_type, 16))
    assert "its head runs on every position" not in capsys.readouterr().out
    # The two ways never agree to a negative tolerance.
    monkeypatch.setattr(masked_head, "PROBE_TOLERANCE", -1.0)
    dense = first_gradient(one_step("dense", model_type, 16))
    assert "its head runs on every position" in capsys.readouterr().out
    assert_same_gradient(sparse, dense)


def test_two_processes_add_up_to_the_gradient_of_one(
    one_step: Callable[..., Path], tmp_path: Path
) -> None:
    expected = {
        model_type: first_gradient(one_step(f"one-{model_type}", model_type, NUM_SEQUENCES))
        for model_type in ARCHITECTURES
    }
    for config in tmp_path.glob("one-*.yaml"):
        config.unlink()
    for model_type in ARCHITECTURES:
        one_step(model_type, model_type, 16)
    launched = subprocess.run(
        torchrun(Path(__file__).with_name("first_gradient.py"), tmp_path),
        env=environment(ACCELERATE_USE_CPU="true"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert launched.returncode == 0, launched.stderr
    for model_type, gradient in expected.items():
        assert_same_gradient(load_file(tmp_path / f"{model_type}.safetensors"), gradient)
