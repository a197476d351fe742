"""`mlmtune corpus`: show what text a corpus yields."""

import json
from pathlib import Path
from typing import Any

from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.corpus.export import check_target, export
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import DataError, ResourceError
from mlmtune.printable import counted
from mlmtune.tokens.summary import summarize
from mlmtune.tokens.summary_text import describe
from mlmtune.training.preparation import PreparedText, prepare


def show_corpus(
    config: Config, console: Console, *, as_json: bool, export_to: Path | None, refresh: bool
) -> None:
    """Print the summary of a corpus, or corpus.json, and write its cleaned documents if asked to.

    Raises:
        MlmtuneError: See `preparation.prepare`.
    """
    if export_to is not None:
        check_target(export_to)  # before a corpus is read for an hour
    prepared, summary = read_summary(config, console, refresh=refresh)
    if as_json:
        console.result(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        for line in describe(summary):
            console.result(line)
    if export_to is not None:
        num_documents = _export(prepared.text, export_to)
        console.say(f"wrote {counted(num_documents, 'document')} to {export_to}")


def read_summary(
    config: Config, console: Console, *, refresh: bool = False
) -> tuple[PreparedText, dict[str, Any]]:
    """Return a corpus and the content of its corpus.json; it is read and tokenized if need be.

    Raises:
        MlmtuneError: See `preparation.prepare`.
    """
    prepared = prepare(config, console, rebuilds=False, refresh=refresh)
    return prepared, summarize(
        prepared.store, prepared.splits, prepared.tokenizer, config.corpus.split_seed,
        prepared.added_words,
    )  # fmt: skip


def _export(text: CorpusText, path: Path) -> int:
    if text.listing is None:
        raise DataError(
            f"--export {path}: only the tokens of the text are here; export where the text is"
        )
    corpus = text.read()
    try:
        return export(corpus, text.config, path)
    except OSError as error:
        raise ResourceError(f"--export {path}: cannot be written ({error.strerror})") from error
