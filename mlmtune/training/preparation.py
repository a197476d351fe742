"""A corpus made ready without a model, and so without torch, which takes seconds to import."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from mlmtune import hub
from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.corpus.listing import Listing
from mlmtune.masking.selection import STRATEGIES
from mlmtune.modeling.locating import is_on_hub, locate_model
from mlmtune.modeling.tokenizer import load_tokenizer
from mlmtune.tokens.splits import Splits, Uses, needed_markers, open_splits
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.tokenization import list_text


@dataclass(frozen=True)
class Prepared:
    """A corpus without a model: what `mlmtune prepare` and `mlmtune corpus` need.

    Attributes:
        listing: the text; None where there is the store alone.
        tokenizer: what the store was made with.
        store: the tokenized corpus.
        splits: its two sides, as chunks.
    """

    listing: Listing | None
    tokenizer: PreTrainedTokenizerFast
    store: TokenStore
    splits: Splits


def prepare(config: Config, console: Console, *, rebuilds: bool, refresh: bool) -> Prepared:
    """Read, clean and tokenize a corpus, unless that is done already.

    Args:
        config: as loaded.
        console: shows what takes time.
        rebuilds: see `open_store`.
        refresh: look up again where branches are.

    Raises:
        MlmtuneError: text and tokenizer are not there, or do not fit the config.
    """
    needed_markers(config.tokenization, uses_of(config))
    listing = list_text(
        config.corpus, config.tokenization, console, is_needed=rebuilds or refresh, refresh=refresh
    )
    say_what_the_hub_is(config, console)
    folder = locate_model(config.model.name_or_path, config.model.revision)
    tokenizer = load_tokenizer(folder)
    store, splits = open_splits(
        config.corpus, config.tokenization, config.chunking, uses_of(config), tokenizer, listing,
        console, rebuilds=rebuilds,
    )  # fmt: skip
    return Prepared(listing, tokenizer, store, splits)


def uses_of(config: Config) -> Uses:
    strategies = {"masking": config.masking.strategy, "evaluation": config.evaluation.strategy}
    of_words = {
        section: name for section, name in strategies.items() if STRATEGIES[name].keeps_words_whole
    }
    sources = (*config.corpus.validation_sources, *config.corpus.sources)
    by_lines = tuple(source.format == "sentences" for source in sources)
    return Uses(config.objective, of_words, tuple(config.evaluation.general), by_lines)


def say_what_the_hub_is(config: Config, console: Console) -> None:
    """Say which variables decide where a model of the hub comes from."""
    notes = hub.environment_notes()
    if notes and is_on_hub(config.model.name_or_path):
        console.say(f"{config.model.name_or_path} from the hub ({'; '.join(notes)})")
