"""The model and the text of a run, loaded together for measuring and training."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlmtune.config import Config, has_pairs
from mlmtune.console import Console
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import DataError
from mlmtune.evaluation.fill_mask import encode_masked_text
from mlmtune.evaluation.frequencies import TokenFrequencies
from mlmtune.evaluation.known_text import KnownText
from mlmtune.evaluation.perplexity import Evaluator
from mlmtune.evaluation.scoring import FixedMasks
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_pretrained
from mlmtune.modeling.locating import MODEL_KEY, locate_model
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.modeling.new_head import start_from_frequencies
from mlmtune.modeling.packing import Packing
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.mixing import Mixture
from mlmtune.tokens.pairs import PairSequences
from mlmtune.tokens.splits import Splits, open_splits
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.unknown import describe_unknown, unknown_token_id
from mlmtune.training.added_words import extension_of
from mlmtune.training.preparation import find_corpus, text_needs
from mlmtune.vocabulary.extension import Extension
from mlmtune.vocabulary.rows import extend_rows

GENERAL_CHUNKS = 1000
"""The number of chunks of general text that are measured without `evaluation.max_chunks`."""

LARGE_VOCABULARY = 65_536
"""The ids beyond which logits may take more memory than the encoder."""

UNKNOWN_SHARE = 0.05
"""The share of unknown tokens beyond which a model learns little from a text."""


@dataclass(frozen=True)
class ModelAndText:
    """A model, the text of a run in its tokens, and what measures the model on the text.

    Attributes:
        text: The text; it has no listing if only its store is on this machine.
        loaded: The tokenizer and the model.
        head: Runs the model on masked positions.
        store: The tokens of the text.
        splits: The training and the validation side of the store, as chunks.
        evaluator: Measures on the validation side.
        general_evaluator: Measures on general text; None without `evaluation.general`.
        added_words: The words that were added to the vocabulary.
    """

    text: CorpusText
    loaded: LoadedModel
    head: MaskedHead
    store: TokenStore
    splits: Splits
    evaluator: Evaluator
    general_evaluator: Evaluator | None
    added_words: tuple[str, ...]

    def token_frequencies(self) -> TokenFrequencies:
        """Return the unigram baseline of the training text."""
        counts = _token_counts(self.loaded, self.splits)
        return TokenFrequencies.of(counts, unknown_token_id(self.loaded.tokenizer))


def _token_counts(loaded: LoadedModel, splits: Splits) -> NDArray[np.int64]:
    """Return (V,) how often each id occurs in the training text."""
    return splits.train.token_counts(loaded.model.get_input_embeddings().num_embeddings)


def load_model_and_text(
    config: Config,
    device: torch.device,
    precision: str,
    console: Console,
    *,
    model_key: str = MODEL_KEY,
    extends_vocabulary: bool = False,
) -> ModelAndText:
    """Load the model of a config, and tokenize the text unless that is done already.

    The model is on the CPU; `device` and `precision` are those that it will run with. `model_key`
    is the setting or the flag that names it, for errors. Only a run that is trained adds the words
    of `vocabulary`; elsewhere, models are measured as they are.

    Raises:
        MlmtuneError: The model or the text cannot be loaded, or they do not fit.
    """
    text = find_corpus(config, console)
    length_key, max_length = longest_chunk(config)
    request = ModelRequest(
        config.model,
        max_length=max_length,
        length_key=length_key,
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
    needs, extension = text_needs(config), None
    if extends_vocabulary:
        extension = extension_of(config, text, needs, loaded.tokenizer)
        loaded = loaded if extension is None else _with_tokenizer(loaded, extension)
    store, splits = open_splits(text, needs, config.chunking, loaded.tokenizer)
    if extension is not None:
        _extend_rows(loaded.model, extension, splits, config)
    head = _head(loaded, precision, config, console)
    unknown = sum(source.num_unknown_tokens for source in store.sources) / store.num_tokens
    if unknown > UNKNOWN_SHARE:
        console.say(
            f"{unknown:.0%} of the tokens are unknown to {config.model.name_or_path}: its "
            "vocabulary is not made for this text"
        )
    if loaded.head_is_new:
        counts = _token_counts(loaded, splits)
        if (unknown_id := unknown_token_id(loaded.tokenizer)) is not None:
            counts[unknown_id] = 0  # unknown tokens are never masked
        start_from_frequencies(loaded, counts)
    evaluators = _evaluators(splits, loaded, config)
    added = () if extension is None else tuple(extension.ids)
    return ModelAndText(text, loaded, head, store, splits, *evaluators, added)


def _with_tokenizer(loaded: LoadedModel, extension: Extension) -> LoadedModel:
    extension.tokenizer.model_max_length = loaded.tokenizer.model_max_length
    return replace(loaded, tokenizer=extension.tokenizer)


def _extend_rows(model: Any, extension: Extension, splits: Splits, config: Config) -> None:
    """Give a model rows for the new words, whose frequencies are those of the training text."""
    num_rows = extension.num_rows(model.get_input_embeddings().num_embeddings)
    extend_rows(
        model, extension.pieces, num_rows, config.vocabulary.init, seed=config.run.seed,
        token_counts=splits.train.token_counts(num_rows),
    )  # fmt: skip


def _head(loaded: LoadedModel, precision: str, config: Config, console: Console) -> MaskedHead:
    """Return what runs the model, and say what its architecture does not allow."""
    head = MaskedHead(loaded.model, len(loaded.tokenizer), precision)
    name = type(loaded.model).__name__
    if not head.is_sparse:
        console.say(
            f"{name} cannot predict masked positions alone; its head runs on every position, "
            "which is slower"
        )
    elif head.output_layer is None and len(loaded.tokenizer) > LARGE_VOCABULARY:
        console.say(
            f"{name} changes its logits after its last layer; those of all masked positions are "
            "in memory at once, so a smaller training.micro_batch_size may be needed"
        )
    if config.chunking.mode == "per_document":
        head.packing = Packing.if_possible(
            loaded, longest_chunk(config)[1], partial(head.outputs, loaded.model)
        )
        if head.packing is None:
            console.say(
                f"{name} cannot keep several sequences of a row apart; short ones are padded, "
                "which is slower"
            )
    return head


def longest_chunk(config: Config) -> tuple[str, int]:
    """Return the key and the tokens of the longest chunk, in any phase or in validation."""
    lengths = {"chunking.chunk_length": config.chunking.chunk_length}
    for number, phase in enumerate(config.phases):
        if phase.chunk_length is not None:
            lengths[f"phases.{number}.chunk_length (phase {phase.name})"] = phase.chunk_length
    return max(lengths.items(), key=lambda item: item[1])


def has_padding(config: Config) -> bool:
    """Whether sequences are of many lengths; otherwise all but a few are full."""
    return config.chunking.mode == "per_document" or has_pairs(config.objective)


def check_is_known(setup: ModelAndText, config: Config) -> None:
    """Refuse to train on text of which the tokenizer knows too little.

    Raises:
        DataError: The training text or the validation text has too many unknown tokens.
    """
    limit = config.tokenization.max_unknown_share
    for side, view in (("training", setup.splits.train), ("validation", setup.splits.validation)):
        share = KnownText.of(view).unknown_token_share
        if share > limit:
            vocabulary = setup.loaded.tokenizer.get_vocab()
            raise DataError(
                f"{share:.0%} of the tokens of the {side} text are unknown to the tokenizer of "
                f"{config.model.name_or_path}, more than tokenization.max_unknown_share "
                f"({limit:g}); {describe_unknown(setup.store.unknown_characters, vocabulary)}; "
                "choose a model that was made for this text, or set "
                "tokenization.max_unknown_share=1 to train on what is known"
            )


def _evaluators(
    splits: Splits, loaded: LoadedModel, config: Config
) -> tuple[Evaluator, Evaluator | None]:
    """Return what measures on validation text, and on general text if there is some."""

    def evaluator(
        view: ChunkView, max_chunks: int | None, pairs: PairSequences | None
    ) -> Evaluator:
        masks = FixedMasks(
            view,
            loaded.tokenizer,
            config.evaluation.model_copy(update={"max_chunks": max_chunks}),
            with_token_type_ids=loaded.has_token_types,
            is_for_compiled_model=config.training.compile,
        )
        return Evaluator(masks, config.evaluation, pairs)

    max_chunks = config.evaluation.max_chunks
    of_domain = evaluator(splits.validation, max_chunks, _validation_pairs(splits, config))
    if splits.general is None:
        return of_domain, None
    return of_domain, evaluator(splits.general, max_chunks or GENERAL_CHUNKS, None)


def _validation_pairs(splits: Splits, config: Config) -> PairSequences | None:
    """Return the pairs to measure on; None for an objective without pairs.

    Raises:
        DataError: All pairs have the same label.
    """
    pairs = splits.validation_pairs
    if pairs is None:
        return None
    mixture = Mixture.of(pairs, np.ones_like(splits.weights))  # weights are for training alone
    sequences = PairSequences(pairs, mixture, config.objective, config.evaluation.seed)
    positions = np.arange(len(sequences))[: config.evaluation.max_chunks]
    labels = sequences.labels(np.zeros_like(positions), positions)
    if labels.min() == labels.max():
        raise DataError(
            f"objective: {config.objective}: the {len(labels)} validation pairs that are measured "
            "happen to have the same label, so that accuracy on them would mean nothing; add "
            "validation text (corpus.validation_fraction), raise evaluation.max_chunks where it "
            "is set, or set another evaluation.seed"
        )
    return sequences
