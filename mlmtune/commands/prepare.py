"""`mlmtune prepare`: read, clean and tokenize a corpus ahead of training."""

from mlmtune.cluster.choosing import open_engine
from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.printable import counted
from mlmtune.training.preparation import prepare


def prepare_store(config: Config, console: Console, *, refresh: bool) -> None:
    """Prepare the token store of a run, and print where it is.

    Raises:
        MlmtuneError: See `preparation.prepare`.
    """
    cluster = open_engine(config.engine, config.corpus, config.tokenization, console)
    prepared = prepare(config, console, rebuilds=True, refresh=refresh, cluster=cluster)
    store, splits = prepared.store, prepared.splits
    console.result(
        f"{counted(store.num_documents, 'document')}, {counted(store.num_tokens, 'token')} in "
        f"{counted(len(store.shards), 'shard')}; {len(splits.train):,} training and "
        f"{counted(len(splits.validation), 'validation chunk')} of {config.chunking.chunk_length}"
    )
    if splits.marks:
        console.result(f"words or sentences are marked, too: {', '.join(splits.marks)}")
    console.result(f"the tokenized corpus is in {store.directory}")
