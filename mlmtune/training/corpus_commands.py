"""What `mlmtune prepare` and `mlmtune corpus` do: the corpus without a run."""

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


def prepare_store(config: Config, console: Console, *, refresh: bool) -> None:
    """Do ahead of training what needs no model, and say where it lies.

    Raises:
        MlmtuneError: see `setup.prepare`.
    """
    prepared = prepare(config, console, rebuilds=True, refresh=refresh)
    store, splits = prepared.store, prepared.splits
    console.result(
        f"{counted(store.num_documents, 'document')}, {counted(store.num_tokens, 'token')} in "
        f"{counted(len(store.shards), 'shard')}; {len(splits.train):,} training and "
        f"{counted(len(splits.validation), 'validation chunk')} of {config.chunking.chunk_length}"
    )
    if splits.marks:
        console.result(f"found in it besides: {', '.join(splits.marks)}")
    console.result(f"the tokenized corpus is in {store.directory}")


def show_corpus(
    config: Config, console: Console, *, as_json: bool, export_to: Path | None, refresh: bool
) -> None:
    """Print what the corpus comes to; write its cleaned documents if asked.

    Raises:
        MlmtuneError: see `setup.prepare`.
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
