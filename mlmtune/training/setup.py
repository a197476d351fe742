"""Text and model, brought together: what measuring takes, and training begins with."""

from dataclasses import dataclass

import numpy as np
import torch

from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import DataError
from mlmtune.evaluation.fill_mask import encode_masked_text
from mlmtune.evaluation.known_text import KnownText
from mlmtune.evaluation.perplexity import Evaluator
from mlmtune.evaluation.scoring import FixedMasks
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_pretrained
from mlmtune.modeling.locating import MODEL_KEY, locate_model
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.modeling.new_head import start_from_frequencies
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.mixing import Mixture
from mlmtune.tokens.pairs import PairSequences
from mlmtune.tokens.splits import Splits, open_splits
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.unknown import describe_unknown, unknown_token_id
from mlmtune.training.preparation import find_corpus, text_needs

GENERAL_CHUNKS = 1000
"""How much of general text is measured unless `evaluation.max_chunks` says otherwise."""

UNKNOWN_SHARE = 0.05
"""Share of unknown tokens beyond which a model learns little from a text."""


@dataclass(frozen=True)
class Measurable:
    """A model beside the text it is measured on: what `mlmtune eval` needs, and `train` first.

    Attributes:
        text: the text; without a listing where only its store is on this machine.
        loaded: tokenizer and model.
        head: runs the model on masked positions.
        store: the tokenized corpus, both sides.
        splits: its two sides, as chunks.
        evaluator: validation on fixed masks.
        general_evaluator: the same on general text; None without any.
    """

    text: CorpusText
    loaded: LoadedModel
    head: MaskedHead
    store: TokenStore
    splits: Splits
    evaluator: Evaluator
    general_evaluator: Evaluator | None


def build_measurable(
    config: Config,
    device: torch.device,
    precision: str,
    console: Console,
    *,
    model_key: str = MODEL_KEY,
) -> Measurable:
    """Load the model, then the corpus.

    Args:
        config: as loaded.
        device: where the model will run.
        precision: what it will compute in.
        console: shows what takes time or was decided.
        model_key: the setting or the flag that names the model.

    Raises:
        MlmtuneError: model, tokenizer and text do not fit, or are not there.
    """
    text = find_corpus(config, console)
    request = ModelRequest(
        config.model,
        max_length=config.chunking.chunk_length,
        device=device,
        precision=precision,
        seed=config.run.seed,
        folder=locate_model(config.model.name_or_path, config.model.revision, model_key),
    )
    loaded = load_pretrained(request, config.objective)
    for note in loaded.notes:
        console.say(note)
    for sentence in config.evaluation.examples:
        encode_masked_text(loaded.tokenizer, sentence)  # refuses a sentence without a mask
    head = MaskedHead(loaded.model, len(loaded.tokenizer))
    if not head.is_sparse:
        console.say(
            f"{type(loaded.model).__name__} cannot predict masked positions alone; its head runs "
            "on every position, which is slower"
        )
    store, splits = open_splits(text, text_needs(config), config.chunking, loaded.tokenizer)
    unknown = sum(source.num_unknown_tokens for source in store.sources) / store.num_tokens
    if unknown > UNKNOWN_SHARE:
        console.say(
            f"{unknown:.0%} of the tokens are unknown to {config.model.name_or_path}: its "
            "vocabulary is not made for this text"
        )
    if loaded.head_is_new:
        vocabulary_size = loaded.model.get_input_embeddings().num_embeddings
        counts = splits.train.token_counts(vocabulary_size)
        if (unknown_id := unknown_token_id(loaded.tokenizer)) is not None:
            counts[unknown_id] = 0  # it is never what is asked for
        start_from_frequencies(loaded, counts)
    masks, general_masks = _fixed_masks(splits, loaded, config)
    evaluator = Evaluator(masks, config.evaluation, _validation_pairs(splits, config))
    general_evaluator = None
    if general_masks is not None:
        general_evaluator = Evaluator(general_masks, config.evaluation)
    return Measurable(text, loaded, head, store, splits, evaluator, general_evaluator)


def check_is_known(measurable: Measurable, config: Config) -> None:
    """Refuse to train where most of the text is unknown to the tokenizer.

    Raises:
        DataError: the training text or the validation text has too many unknown tokens.
    """
    splits, store = measurable.splits, measurable.store
    limit = config.tokenization.max_unknown_share
    for side, view in (("training", splits.train), ("validation", splits.validation)):
        share = KnownText.of(view).unknown_token_share
        if share > limit:
            unknown = describe_unknown(
                store.unknown_characters, measurable.loaded.tokenizer.get_vocab()
            )
            raise DataError(
                f"{share:.0%} of the tokens of the {side} text are unknown to the tokenizer of "
                f"{config.model.name_or_path}, more than tokenization.max_unknown_share "
                f"({limit:g}); {unknown}; choose a model that was made for this text, or set "
                "tokenization.max_unknown_share=1 to train on what is known"
            )


def _fixed_masks(
    splits: Splits, loaded: LoadedModel, config: Config
) -> tuple[FixedMasks, FixedMasks | None]:
    """The chunks that a model is measured on, masked: of the domain, and of general text."""

    def masks(view: ChunkView, max_chunks: int | None) -> FixedMasks:
        return FixedMasks(
            view,
            loaded.tokenizer,
            config.evaluation.model_copy(update={"max_chunks": max_chunks}),
            with_token_type_ids=loaded.has_token_types,
            is_for_compiled_model=config.training.compile,
        )

    max_chunks = config.evaluation.max_chunks
    of_domain = masks(splits.validation, max_chunks)
    if splits.general is None:
        return of_domain, None
    return of_domain, masks(splits.general, max_chunks or GENERAL_CHUNKS)


def _validation_pairs(splits: Splits, config: Config) -> PairSequences | None:
    """The pairs that a model is measured on; None for an objective without them.

    Raises:
        DataError: all have one label.
    """
    pairs = splits.validation_pairs
    if pairs is None:
        return None
    mixture = Mixture.of(pairs, np.ones_like(splits.weights))  # what is measured has no weights
    sequences = PairSequences(pairs, mixture, config.objective, config.evaluation.seed)
    places = np.arange(len(sequences))[: config.evaluation.max_chunks]
    labels = sequences.labels(np.zeros_like(places), places)
    if labels.min() == labels.max():
        raise DataError(
            f"objective: {config.objective}: the {len(labels)} validation pairs that are measured "
            "happen to have the same label, so that telling them right would mean nothing; add "
            "validation text (corpus.validation_fraction), raise evaluation.max_chunks where it "
            "is set, or set another evaluation.seed"
        )
    return sequences
