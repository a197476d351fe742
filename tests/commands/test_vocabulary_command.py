"""`mlmtune vocabulary` on a small text."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlmtune.commands.vocabulary import show_vocabulary
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import ResourceError


def shown(path: Path, **options: Any) -> None:
    given = {"as_json": False, "export_to": None, "refresh": False, **options}
    show_vocabulary(load_config(path), Console(notes_to_stderr=True), **given)


def test_words_that_save_most_come_first_and_are_exported(
    config_file: Any, domain: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_file(**domain, vocabulary={"add": 3})
    shown(path, as_json=True, export_to=tmp_path / "words.txt")
    record = json.loads(capsys.readouterr().out)
    saved = [word["tokens_saved"] for word in record["candidates"]]
    assert saved == sorted(saved, reverse=True)
    assert record["candidates"][0]["word"] == "kubernetes"
    assert [*record["added"]] == (tmp_path / "words.txt").read_text(encoding="utf-8").split()
    assert record["sample"]["tokens_after"] < record["sample"]["tokens_before"]
    for sentence in record["sentences"]:
        assert len(sentence["after"]) < len(sentence["before"])


def test_the_report_names_words_curve_and_sentences(
    config_file: Any, domain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(config_file(**domain))
    text = capsys.readouterr().out
    assert "tokens saved" in text
    assert "the curve bends at" in text
    assert "before (" in text
    assert "chunks per epoch: " in text


def test_a_folder_that_is_not_there_is_found_before_anything_is_read(
    config_file: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_file(corpus={"sources": [{"format": "text", "path": "nowhere"}]})
    with pytest.raises(ResourceError, match="there is no such folder"):
        shown(path, export_to=tmp_path / "no" / "words.txt")


def test_a_segmenter_is_suggested_for_chinese_text(
    config_file: Any, domain: Any, tmp_path: Path, model_dir: Path, capsys: Any
) -> None:
    model, folder = tmp_path / "model", tmp_path / "chinese"
    shutil.copytree(model_dir, model)
    file = model / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for character in "\u96c6\u7fa4":
        content["model"]["vocab"][character] = len(content["model"]["vocab"])
    file.write_text(json.dumps(content), encoding="utf-8")
    folder.mkdir()
    sentence = 4 * "\u96c6\u7fa4"
    for number in range(40):
        text = f"{number} kubernetes {sentence}"
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    sections = {"corpus": {"sources": [{"format": "text", "path": str(folder)}]}}
    shown(config_file(**sections, model={"name_or_path": str(model)}))
    assert "only a segmenter finds words" in capsys.readouterr().out
    shown(config_file(**domain))
    assert "segmenter" not in capsys.readouterr().out
