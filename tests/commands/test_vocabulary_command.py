"""`mlmtune vocabulary` on a small text."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlmtune.commands.vocabulary import show_vocabulary
from mlmtune.config_loading import load_config
from mlmtune.console import Console


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
