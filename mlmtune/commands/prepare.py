"""Reading, cleaning and tokenizing ahead of training: `mlmtune prepare`."""

from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.printable import counted
from mlmtune.training.preparation import prepare


def prepare_store(config: Config, console: Console, *, refresh: bool) -> None:
    """Do what needs no model ahead of training, and print where the tokenized corpus is.

    Raises:
        MlmtuneError: see `preparation.prepare`.
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
