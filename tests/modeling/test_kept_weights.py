"""What a checkpoint holds besides the masked language model is in the result as well."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
)

from mlmtune.modeling.kept_weights import read_kept_weights

AUTO_CLASSES = (
    AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForSequenceClassification,
)  # fmt: skip
ONE_STEP = {
    "training": {"max_steps": 1},
    "evaluation": {"every": 1},
    "checkpoint": {"every": 1, "export": "last"},
}
BERT_POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
BERT_NSP = {"cls.seq_relationship.weight", "cls.seq_relationship.bias"}
ALBERT_PAIRS = {"albert.pooler.weight", "albert.pooler.bias",
                "sop_classifier.classifier.weight", "sop_classifier.classifier.bias"}  # fmt: skip
CLASSIFIER = {"classifier.weight", "classifier.bias"}


def build(class_name: str, tokenizer: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(**{
        "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 66,
        "pad_token_id": tokenizer.pad_token_id, **settings,
    })  # fmt: skip
    return model_class(config)


@pytest.fixture
def base(tmp_path: Path, tokenizer: Any, byte_tokenizer: Any) -> Callable[..., Path]:
    """Saves a tiny model of a class of transformers, with its tokenizer."""

    def save(class_name: str, max_shard_size: str = "1GB", **settings: Any) -> Path:
        folder = tmp_path / "base"
        its_own = byte_tokenizer if class_name.startswith("Roberta") else tokenizer
        build(class_name, its_own, **settings).save_pretrained(
            folder, max_shard_size=max_shard_size
        )
        its_own.save_pretrained(folder)
        return folder

    return save


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Change the tensors of a checkpoint in one file."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    return folder


def as_years_ago(tensors: dict[str, torch.Tensor]) -> None:
    """LayerNorm's weights under their names in TensorFlow, and positions as a buffer."""
    for name in list(tensors):
        if "LayerNorm" in name:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            tensors[old.replace("LayerNorm.bias", "LayerNorm.beta")] = tensors.pop(name)
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    tensors[f"{prefix}embeddings.position_ids"] = torch.arange(66)[None]


def as_pickle(folder: Path) -> Path:
    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()
    return folder


def assert_kept(folder: Path, base: Path, kept: set[str]) -> None:
    """`folder` has all that `base` has, for each class; and of what is kept, the same."""
    seen = set()
    for auto_class in AUTO_CLASSES:
        before, missing_before = load(auto_class, base)
        after, missing = load(auto_class, folder)
        assert missing <= missing_before, auto_class
        for name in before.state_dict().keys() - missing_before:
            full_name = name if name in kept else f"{before.base_model_prefix}.{name}"
            if full_name in kept:
                assert torch.equal(after.state_dict()[name], before.state_dict()[name]), name
                seen.add(full_name)
    assert seen == kept


def load(auto_class: Any, folder: Path) -> tuple[Any, set[str]]:
    model, report = auto_class.from_pretrained(folder, output_loading_info=True)
    return model, set(report["missing_keys"])


def assert_holds_no_more(path: Path, kept: set[str]) -> None:
    """The file has the tensors of the masked language model once each, and those that are kept."""
    model = AutoModelForMaskedLM.from_pretrained(path)
    model.save_pretrained(path.parent / "alone")
    alone = load_file(path.parent / "alone" / "model.safetensors").keys()
    assert load_file(path / "model.safetensors").keys() == alone | kept
    assert not alone & kept


WHOLE = {
    # class of the base -> what is kept of it, under the names in the result
    "BertForPreTraining": BERT_POOLER | BERT_NSP,
    "BertForMaskedLM": set(),
    "BertModel": BERT_POOLER,
    "BertForSequenceClassification": BERT_POOLER | CLASSIFIER,
    "AlbertForPreTraining": ALBERT_PAIRS,
    "RobertaModel": {"roberta.pooler.dense.weight", "roberta.pooler.dense.bias"},
}


@pytest.mark.parametrize("class_name", WHOLE)
def test_other_classes_find_in_the_result_what_they_found_in_its_base(
    runs: Any, base: Callable[..., Path], class_name: str
) -> None:
    folder = base(class_name)
    run = runs.train(model={"name_or_path": str(folder)}, **ONE_STEP)
    assert_kept(run.path / "model", folder, WHOLE[class_name])
    assert_kept(run.checkpoint(1), folder, WHOLE[class_name])
    assert_holds_no_more(run.path / "model", WHOLE[class_name])


@pytest.mark.parametrize("class_name", ["BertForPreTraining", "BertModel"])
@pytest.mark.parametrize("kind", ["old names", "pickle", "shards"])
def test_however_the_base_was_saved(
    runs: Any, base: Callable[..., Path], kind: str, class_name: str
) -> None:
    folder = base(class_name, max_shard_size="4KB" if kind == "shards" else "1GB")
    if kind == "old names":
        rewrite(folder, as_years_ago)
    elif kind == "pickle":
        as_pickle(folder)
    else:
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    run = runs.train(model={"name_or_path": str(folder)}, **ONE_STEP)
    assert_kept(run.path / "model", folder, WHOLE[class_name])
    assert_holds_no_more(run.path / "model", WHOLE[class_name])


def test_a_result_that_is_trained_again_keeps_them_again(
    runs: Any, base: Callable[..., Path]
) -> None:
    folder = base("BertForPreTraining")
    first = runs.train("first", model={"name_or_path": str(folder)}, **ONE_STEP)
    second = runs.train("second", model={"name_or_path": str(first.path / "model")}, **ONE_STEP)
    assert not torch.equal(second.weights["bert.embeddings.word_embeddings.weight"],
                           first.weights["bert.embeddings.word_embeddings.weight"])  # fmt: skip
    assert second.weights.keys() == first.weights.keys()
    assert_kept(second.path / "model", folder, WHOLE["BertForPreTraining"])


def test_a_run_that_is_resumed_keeps_them(runs: Any, base: Callable[..., Path]) -> None:
    sections = {"model": {"name_or_path": str(base("BertForPreTraining"))}}
    expected = runs.train("expected", **sections)
    resumed = runs.train("resumed", **sections, resume=str(expected.checkpoint(4)))
    assert WHOLE["BertForPreTraining"] <= resumed.weights.keys()
    assert resumed.model_bytes == expected.model_bytes


def test_a_run_with_pairs_keeps_what_neither_head_needs(
    runs: Any, base: Callable[..., Path], pair_sections: dict[str, Any]
) -> None:
    folder = base("BertForSequenceClassification")
    sections = pair_sections | {"model": {"name_or_path": str(folder)}}
    run = runs.train(**sections, **ONE_STEP)
    _, missing = load(AutoModelForPreTraining, run.path / "model")
    assert not missing
    before = load_file(folder / "model.safetensors")
    for name in CLASSIFIER:
        assert torch.equal(run.weights[name], before[name])
    # The pooler is trained with the pairs.
    assert not torch.equal(run.weights["bert.pooler.dense.weight"],
                           before["bert.pooler.dense.weight"])  # fmt: skip


@pytest.mark.parametrize("class_name", WHOLE)
def test_fill_mask_loads_the_result_and_is_told_of_nothing_else(
    runs: Any, base: Callable[..., Path], class_name: str, said: list[str]
) -> None:
    run = runs.train(model={"name_or_path": str(base(class_name))}, **ONE_STEP)
    transformers.logging.set_verbosity_warning()
    fill = transformers.pipeline("fill-mask", model=str(run.path / "model"))
    assert len(fill(f"the {fill.tokenizer.mask_token} is ready")) == 5
    # transformers lists what a class leaves unread, as it does for most models of its hub.
    lines = [line for message in said for line in message.splitlines() if "|" in line]
    listed = {line.split("|")[0].strip(): line.split("|")[1].strip() for line in lines[1:]}
    assert listed == dict.fromkeys(WHOLE[class_name], "UNEXPECTED")
    assert len(said) == bool(WHOLE[class_name])


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What transformers logs, which pytest does not catch: its loggers do not propagate."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener = Listener(logging.WARNING)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.add_handler(listener)
    yield lines
    transformers.logging.remove_handler(listener)
    transformers.logging.set_verbosity(verbosity)


# What is read, by the tensor.


def read(folder: Path) -> dict[str, torch.Tensor]:
    model, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    return read_kept_weights(folder, model, report["unexpected_keys"], {})


def test_nothing_is_read_where_nothing_is_left_over(base: Callable[..., Path]) -> None:
    folder = base("BertForMaskedLM")
    model = AutoModelForMaskedLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    assert read_kept_weights(folder, model, (), {}) == {}


def test_integers_are_left_out(base: Callable[..., Path]) -> None:
    folder = rewrite(
        base("BertForMaskedLM"),
        lambda t: t.update({"adapter.steps": torch.arange(3), "adapter.weight": torch.ones(3)}),
    )
    assert read(folder).keys() == {"adapter.weight"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_of_the_embeddings_are_left_out(
    base: Callable[..., Path], dtype: torch.dtype
) -> None:
    """They are trained; under another name they would stay what they were."""

    def copy_embeddings(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)
        embeddings = tensors["bert.embeddings.word_embeddings.weight"]
        tensors["decoder.weight"] = embeddings.clone()
        tensors["other.weight"] = embeddings + 1

    assert read(rewrite(base("BertForMaskedLM"), copy_embeddings)).keys() == {"other.weight"}


def test_what_is_read_is_fp32_and_no_view_of_the_file(base: Callable[..., Path]) -> None:
    folder = rewrite(
        base("BertForPreTraining"), lambda t: t.update({n: w.half() for n, w in t.items()})
    )
    kept = read(folder)
    expected = {name: tensor.clone() for name, tensor in kept.items()}
    path = folder / "model.safetensors"
    with path.open("r+b") as file:  # as a file that is written anew in place
        file.write(bytes(path.stat().st_size))
    assert kept.keys() == WHOLE["BertForPreTraining"]
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in kept.items())


def test_safetensors_go_before_pickles(base: Callable[..., Path]) -> None:
    folder = base("BertForPreTraining")
    other = {n: w + 1 for n, w in load_file(folder / "model.safetensors").items()}
    torch.save(other, folder / "pytorch_model.bin")
    expected = load_file(folder / "model.safetensors")
    for name, tensor in read(folder).items():
        assert torch.equal(tensor, expected[name])


def test_old_names_are_those_of_today(base: Callable[..., Path]) -> None:
    folder = rewrite(
        base("BertForPreTraining"),
        lambda t: (as_years_ago(t), t.update({"head.LayerNorm.gamma": torch.ones(3)})),
    )
    assert read(folder).keys() == WHOLE["BertForPreTraining"] | {"head.LayerNorm.weight"}
