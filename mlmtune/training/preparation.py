"""The preparation of a corpus without a model, and so without torch, whose import takes seconds."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from mlmtune import hub
from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.corpus.engine import Engine
from mlmtune.corpus.text import CorpusText
from mlmtune.masking.selection import STRATEGIES
from mlmtune.modeling.locating import is_on_hub, locate_model
from mlmtune.modeling.tokenizer import load_tokenizer
from mlmtune.tokens.opening import find_text
from mlmtune.tokens.splits import PhaseNeeds, Splits, TextNeeds, needed_markers, open_splits
from mlmtune.tokens.store import TokenStore
from mlmtune.training.added_words import extension_of, keep


@dataclass(frozen=True)
class PreparedText:
    """A tokenized corpus, for commands that need no model.

    Attributes:
        text: The text; it has no listing if only its store is on this machine.
        splits: The training and the validation side of the store, as chunks.
        added_words: The words that were added to the vocabulary.
    """

    text: CorpusText
    tokenizer: PreTrainedTokenizerFast
    store: TokenStore
    splits: Splits
    added_words: tuple[str, ...]


def prepare(
    config: Config,
    console: Console,
    *,
    rebuilds: bool,
    refresh: bool,
    cluster: Engine | None = None,
) -> PreparedText:
    """Read, clean and tokenize a corpus, unless that is done already.

    See `find_text` for `refresh`, `open_store` for `rebuilds`, and `CorpusText` for `cluster`.

    Raises:
        MlmtuneError: The text or the tokenizer cannot be loaded, or does not fit the config.
    """
    needs = text_needs(config)
    text = find_corpus(
        config, console, is_needed=rebuilds or refresh, refresh=refresh, cluster=cluster
    )
    base = load_tokenizer(locate_model(config.model.name_or_path, config.model.revision))
    extension = extension_of(config, text, needs, base)
    tokenizer = base if extension is None else extension.tokenizer
    store, splits = open_splits(
        text, needs, config.chunking, tokenizer, rebuilds=rebuilds, refresh=refresh
    )
    if extension is not None and rebuilds and text.store is not None:
        keep(extension, config, text.store, base)
    added = () if extension is None else tuple(extension.ids)
    return PreparedText(text, tokenizer, store, splits, added)


def find_corpus(
    config: Config,
    console: Console,
    *,
    is_needed: bool = False,
    refresh: bool = False,
    cluster: Engine | None = None,
) -> CorpusText:
    """Find the text of a config, and report the hub's environment variables; see `find_text`.

    Raises:
        MlmtuneError: An extra is missing, or the text cannot be reached.
    """
    text = CorpusText.of(config.corpus, config.tokenization, console, cluster)
    needed_markers(text_needs(config), text)  # refuses a missing extra
    text = find_text(text, is_needed=is_needed, refresh=refresh)
    notes = hub.environment_notes()
    if notes and is_on_hub(config.model.name_or_path):
        console.say(f"{config.model.name_or_path} from the hub ({'; '.join(notes)})")
    return text


def text_needs(config: Config) -> TextNeeds:
    """Return what a config needs to know about its text."""
    strategies = {
        "masking": config.masking.strategy,
        "evaluation": config.evaluation.strategy,
        **{
            f"phases.{number}": phase.strategy
            for number, phase in enumerate(config.phases)
            if phase.strategy is not None
        },
    }
    by_phase = zip(config.phases, config.by_phase, strict=True) if config.phases else ()
    return TextNeeds(
        objective=config.objective,
        word_strategies={
            section: name
            for section, name in strategies.items()
            if STRATEGIES[name].keeps_words_whole
        },
        word_segmenter=config.tokenization.word_segmenter,
        language=config.tokenization.language,
        general=tuple(config.evaluation.general),
        phases=tuple(
            PhaseNeeds(phase.name, settings.corpus, settings.chunking.chunk_length)
            for phase, settings in by_phase
        ),
    )
