"""What comes of a corpus, without a run: `mlmtune corpus`."""

import json
from pathlib import Path

from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.corpus.corpus import read_corpus
from mlmtune.corpus.export import check_target, export
from mlmtune.errors import DataError, ResourceError
from mlmtune.locations import cache_directory
from mlmtune.printable import counted
from mlmtune.tokens.summary import summarize
from mlmtune.tokens.summary_text import describe
from mlmtune.training.preparation import Prepared, prepare


def show_corpus(
    config: Config, console: Console, *, as_json: bool, export_to: Path | None, refresh: bool
) -> None:
    """Print what the corpus comes to; write its cleaned documents if asked.

    Raises:
        MlmtuneError: see `preparation.prepare`.
    """
    if export_to is not None:
        check_target(export_to)
    prepared = prepare(config, console, rebuilds=False, refresh=refresh)
    summary = summarize(
        prepared.store, prepared.splits, prepared.tokenizer, config.corpus.split_seed
    )
    if as_json:
        console.result(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        for line in describe(summary):
            console.result(line)
    if export_to is not None:
        num_documents = _export(prepared, config, console, export_to)
        console.say(f"wrote {counted(num_documents, 'document')} to {export_to}")


def _export(prepared: Prepared, config: Config, console: Console, path: Path) -> int:
    if prepared.listing is None:
        raise DataError(f"--export {path}: the text is not here, only its tokens; export it there")
    cleaned = cache_directory(config.tokenization.cache_dir, "cleaned")
    corpus = read_corpus(config.corpus, prepared.listing, cleaned, console)
    try:
        return export(corpus, config.corpus, path)
    except OSError as error:
        raise ResourceError(f"--export {path}: cannot be written ({error.strerror})") from error
