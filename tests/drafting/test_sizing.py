"""The settings of a first run."""

import json

import pytest

from mlmtune.config_loading import load_config_text
from mlmtune.drafting.sizing import Machine, ModelSize, TextSize, choose

BERT = ModelSize(512, 768, 85_000_000, has_trained_head=True, is_modern=False)
ENCODER = ModelSize(512, 384, 10_600_000, has_trained_head=False, is_modern=False)
MODERN = ModelSize(8192, 768, 110_000_000, has_trained_head=True, is_modern=True)
LAPTOP, SERVER = Machine(0, 8), Machine(2, 32)
PLAIN = (
    "run: {output_dir: a}\nmodel: {name_or_path: b}\ncorpus: {sources: [{format: text, path: c}]}"
)


def chosen(text, model=BERT, machine=SERVER, overrides=()):
    given = load_config_text(PLAIN, "test", overrides)
    choices = {f"{c.section}.{c.key}": c.value for c in choose(given, text, model, machine)}
    # Whatever is chosen goes together.
    load_config_text(PLAIN, "test", [f"{key}={json.dumps(v)}" for key, v in choices.items()])
    return choices


def text_of(num_tokens, num_documents=1000, largest_share=0.01):
    return TextSize(num_documents, num_tokens, largest_share)


def test_a_gpu_takes_longer_chunks_and_all_of_the_text():
    settings = chosen(text_of(20_000_000))
    assert settings["chunking.chunk_length"] == 512
    assert settings["training.epochs"] == 3
    assert settings["training.global_batch_size"] == 64
    assert settings["optimizer.learning_rate"] == 5e-5
    assert settings["masking.mlm_probability"] == 0.15
    assert settings["corpus.validation_fraction"] == 0.05
    assert "training.max_steps" not in settings


def test_short_documents_have_short_chunks_and_none_is_beyond_the_model():
    assert chosen(text_of(20_000, num_documents=1000))["chunking.chunk_length"] == 128
    tiny = ModelSize(64, 32, 1000, has_trained_head=True, is_modern=False)
    assert chosen(text_of(20_000), tiny)["chunking.chunk_length"] == 64


@pytest.mark.parametrize(("positions", "length"), [(514, 512), (66, 64), (512, 512)])
def test_positions_that_are_not_for_tokens_are_not_used(positions, length):
    """RoBERTa has two more than the tokens that it takes."""
    size = ModelSize(positions, 768, 85_000_000, has_trained_head=True, is_modern=False)
    assert chosen(text_of(20_000_000), size)["chunking.chunk_length"] == length


def test_a_cpu_ends_in_about_an_hour():
    settings = chosen(text_of(20_000_000), machine=LAPTOP)
    tokens = settings["training.max_steps"] * 128 * settings["training.global_batch_size"]
    assert tokens * 6 * BERT.num_weights / (8 * 3e10) == pytest.approx(3600, rel=0.01)
    assert settings["evaluation.max_chunks"] == 500
    short = chosen(text_of(20_000_000), machine=LAPTOP, overrides=["training.max_steps=60"])
    assert short["evaluation.max_chunks"] == 100  # measuring takes no longer than training
    small = chosen(text_of(100_000), ENCODER, LAPTOP)
    assert small["training.epochs"] == 10  # all of it fits into the hour


def test_little_text_is_seen_more_often_in_smaller_batches():
    epochs = [chosen(text_of(n))["training.epochs"] for n in (10**5, 10**6, 10**7, 10**8, 10**9)]
    assert epochs == [10, 5, 3, 2, 1]
    batches = [
        chosen(text_of(n))["training.global_batch_size"] for n in (10**4, 10**6, 10**9)
    ]  # fmt: skip
    assert batches == sorted(batches)
    assert batches[0] == 4
    assert chosen(text_of(100_000))["corpus.validation_fraction"] == 0.2


def test_a_new_head_and_a_modern_encoder_take_more_masks():
    new = chosen(text_of(10**6), ENCODER)
    assert (new["masking.mlm_probability"], new["optimizer.learning_rate"]) == (0.3, 5e-4)
    assert new["model.dropout"] == 0.0
    modern = chosen(text_of(10**6), MODERN)
    assert (modern["masking.mlm_probability"], modern["optimizer.learning_rate"]) == (0.3, 5e-5)
    assert "model.dropout" not in modern


@pytest.mark.parametrize("text", [text_of(10**6, 9), text_of(10**6, 1000, largest_share=0.6)])
def test_too_few_documents_are_split_by_chunks(text):
    assert chosen(text)["corpus.split_by"] == "chunk"
    assert "corpus.split_by" not in chosen(text_of(10**6))


def test_what_the_user_sets_is_gone_along_with():
    asked = ["training.max_steps=40", "training.global_batch_size=8", "chunking.chunk_length=64",
             "corpus.validation_fraction=0.1"]  # fmt: skip
    settings = chosen(text_of(10**7), machine=LAPTOP, overrides=asked)
    assert not settings.keys() & {"training.epochs", "training.max_steps"}
    assert settings["training.global_batch_size"] == 8
    assert settings["chunking.chunk_length"] == 64
    assert settings["evaluation.every"] == settings["checkpoint.every"] == 10
    assert settings["corpus.validation_fraction"] == 0.1


@pytest.mark.parametrize("key", ["training.epochs=1", "training.max_tokens=100000"])
def test_a_limit_of_the_user_is_the_only_one(key):
    settings = chosen(text_of(10**8), machine=LAPTOP, overrides=[key])
    assert not settings.keys() & {"training.epochs", "training.max_steps"}


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (
            {"hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 16,
             "max_position_embeddings": 64, "architectures": ["BertForMaskedLM"]},
            ModelSize(64, 8, 1024, has_trained_head=True, is_modern=False),
        ),
        (
            {"dim": 8, "n_layers": 2, "hidden_dim": 16, "architectures": ["DistilBertModel"]},
            ModelSize(512, 8, 1024, has_trained_head=False, is_modern=False),
        ),
        ({"model_type": "modernbert"},
         ModelSize(512, 768, 84_934_656, has_trained_head=False, is_modern=True)),
    ],
)  # fmt: skip
def test_the_size_of_a_model_is_that_of_its_config(tmp_path, config, size):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert ModelSize.of(tmp_path) == size
