"""Tokenizers that cannot be used are refused by their cause; doubtful ones are spoken of."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, BertConfig, BertTokenizer

from mlmtune.errors import ConfigError
from mlmtune.modeling.locating import ModelFolder
from mlmtune.modeling.tokenizer import load_tokenizer, tokenizer_notes


@pytest.fixture
def bare(model_dir: Path, tmp_path: Path) -> ModelFolder:
    """A tiny model without the files of its tokenizer."""
    folder = shutil.copytree(model_dir, tmp_path / "tiny")
    for path in folder.glob("*token*"):
        path.unlink()
    return ModelFolder(folder, "tiny", "--model")


def write(folder: ModelFolder, **files: Any) -> None:
    for name, content in files.items():
        (folder.path / name.replace("_json", ".json").replace("_dot_", ".")).write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )


@pytest.mark.parametrize("file", ["tokenizer_config_json", "config_json"])
@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "BertweetTokenizer"])
def test_a_tokenizer_in_python_alone_is_named(bare: ModelFolder, file: str, name: str) -> None:
    content = json.loads((bare.path / "config.json").read_text(encoding="utf-8"))
    write(bare, vocab_dot_txt="[PAD]\n[UNK]\n", **{file: content | {"tokenizer_class": name}})
    with pytest.raises(ConfigError, match=rf"^--model: tiny has a slow tokenizer \({name}\)"):
        load_tokenizer(bare)


def test_a_class_that_transformers_does_not_have_is_named(bare: ModelFolder) -> None:
    write(bare, tokenizer_config_json={"tokenizer_class": "KrBertTokenizer"})
    with pytest.raises(ConfigError, match="names the tokenizer class KrBertTokenizer, which"):
        load_tokenizer(bare)


def test_a_class_that_transformers_does_not_have_is_no_matter_beside_a_tokenizer_json(
    bare: ModelFolder, tokenizer: Any
) -> None:
    tokenizer.save_pretrained(bare.path)
    write(
        bare, tokenizer_config_json={"tokenizer_class": "KrBertTokenizer", "mask_token": "[MASK]"}
    )
    assert load_tokenizer(bare)("the account")["input_ids"] == tokenizer("the account")["input_ids"]


def test_what_is_no_sentencepiece_model_is_said(bare: ModelFolder) -> None:
    write(bare, spm_dot_model="nothing", tokenizer_config_json={}, config_json={
        "model_type": "deberta-v2",
    })  # fmt: skip
    with pytest.raises(ConfigError, match=r"has a spm\.model that is not a SentencePiece model"):
        load_tokenizer(bare)


def test_a_sentencepiece_that_is_not_installed_is_named(
    bare: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bare, spm_dot_model="nothing", tokenizer_config_json={}, config_json={
        "model_type": "deberta-v2",
    })  # fmt: skip
    monkeypatch.setattr("mlmtune.modeling.tokenizer.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"has a spm\.model, which needs .*pip install sentence"):
        load_tokenizer(bare)


def test_a_broken_tokenizer_json_is_said(bare: ModelFolder) -> None:
    write(bare, tokenizer_json="{")
    with pytest.raises(ConfigError, match=r"has a tokenizer that cannot be loaded \(.*fetch"):
        load_tokenizer(bare)


def test_nothing_is_said_of_a_sound_tokenizer(model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    assert not list(tokenizer_notes(tokenizer, BertConfig.from_pretrained(model_dir)))


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "The", "Account", "of", "##s"]


@pytest.mark.parametrize(("do_lower_case", "is_said"), [(True, True), (False, False)])
def test_capital_letters_that_no_text_can_match_are_said(
    tmp_path: Path, do_lower_case: bool, is_said: bool
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer.from_pretrained(tmp_path, do_lower_case=do_lower_case)
    notes = list(tokenizer_notes(tokenizer, BertConfig(vocab_size=len(PIECES))))
    assert ['"do_lower_case": false' in note for note in notes] == [True] * is_said
    assert not is_said or "50% of its vocabulary has capital letters" in notes[0]


def test_a_tokenizer_that_is_much_smaller_than_the_embeddings_is_said(tokenizer: Any) -> None:
    (note,) = tokenizer_notes(tokenizer, BertConfig(vocab_size=2 * len(tokenizer)))
    assert f"has a tokenizer of {len(tokenizer):,} tokens and embeddings for" in note


def test_a_text_without_its_special_tokens_is_said(tokenizer: Any) -> None:
    bald = copy.deepcopy(tokenizer)
    bald.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    (note,) = tokenizer_notes(bald, BertConfig(vocab_size=len(tokenizer)))
    assert "puts no [CLS] and no [SEP] around a text" in note
