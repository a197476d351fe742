"""A model's predictions for the mask tokens in a sentence."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerFast

from mlmtune.errors import ConfigError
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.pair_head import token_logits
from mlmtune.tokens.encoding import plain_backend, role_tokens
from mlmtune.tokens.unknown import unknown_token_id

ANY_MASK = "[MASK]"
"""What users may write instead of the tokenizer's own mask token."""


@dataclass(frozen=True)
class Prediction:
    """A candidate for a mask; the names are those of transformers' fill-mask pipeline.

    Attributes:
        score: The token's probability.
        token: The token's id.
        token_str: The token's text.
        sequence: The sentence with this mask filled in; other masks stay.
    """

    score: float
    token: int
    token_str: str
    sequence: str


@dataclass(frozen=True)
class Target:
    """A word that the user asks about, at one mask.

    Attributes:
        word: The word as the user wrote it.
        pieces: The tokens of the word at this position, as the vocabulary writes them.
        token: The id of the token that was scored; None if the word is not a single token.
        token_str: That token as the vocabulary writes it.
        score: Its probability.
        rank: Its rank among all tokens of the vocabulary; 1 is the likeliest.
    """

    word: str
    pieces: tuple[str, ...]
    token: int | None = None
    token_str: str | None = None
    score: float | None = None
    rank: int | None = None


@dataclass(frozen=True)
class MaskPredictions:
    """A model's predictions for one mask, the likeliest first, and the user's words."""

    predictions: tuple[Prediction, ...]
    targets: tuple[Target, ...]


class TargetWords:
    """The words that the user asks about, and their tokens in one vocabulary.

    Args:
        words: The words as the user wrote them, without spaces around them.
        tokenizer: The tokenizer with the vocabulary.

    Raises:
        ConfigError: A word is not Unicode text.
    """

    def __init__(self, words: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> None:
        self._words = tuple(words)
        for word in self._words:
            _check_unicode(word)
        # Copying the vocabulary of a large tokenizer takes time, so it waits for a word.
        self._backend = plain_backend(tokenizer) if self._words else None
        self._vocabulary = tokenizer.get_vocab() if self._words else {}
        self._names = {id_: name for name, id_ in self._vocabulary.items()}
        self._unknown_id = unknown_token_id(tokenizer)

    def at(self, before: str) -> list[Target]:
        """Return the words as they would be tokenized behind some text, not scored yet."""
        return [self._find(word, before) for word in self._words]

    def _find(self, word: str, before: str) -> Target:
        """Find the token of a word; the form that fits the text before it is tried first.

        Byte-level BPE and SentencePiece have one token for a word after a space and another for the
        same letters within a word. An entry of the vocabulary (`##s`) may be given, too.
        """
        assert self._backend is not None
        spaced = self._backend.encode(f" {word}", add_special_tokens=False)
        bare = self._backend.encode(word, add_special_tokens=False)
        entry = [self._vocabulary[word]] if word in self._vocabulary else []
        if before[-1:].isspace():
            pieces, forms = spaced.tokens, [spaced.ids, entry, bare.ids]
        elif not before:
            pieces, forms = bare.tokens, [bare.ids, entry, spaced.ids]
        else:
            # SentencePiece puts a space before any text; only the entry itself has none.
            pieces, forms = bare.tokens, [entry, bare.ids, spaced.ids]
        for ids in forms:
            if len(ids) == 1 and ids[0] != self._unknown_id:
                return Target(word, tuple(pieces), token=ids[0], token_str=self._names[ids[0]])
        return Target(word, tuple(pieces))


def encode_masked_text(tokenizer: PreTrainedTokenizerFast, text: str) -> BatchEncoding:
    """Encode a sentence with masks, as one row of tensors.

    Raises:
        ConfigError: The text has no mask, is longer than the model takes, or is not Unicode.
    """
    _check_unicode(text)
    encoding: BatchEncoding = tokenizer(
        text.replace(ANY_MASK, str(tokenizer.mask_token)),
        return_tensors="pt",
        truncation=False,
        padding=False,
        verbose=False,  # too long a text is reported below
    )
    ids = encoding["input_ids"]
    if not (ids == tokenizer.mask_token_id).any():
        raise ConfigError(f"there is no {ANY_MASK} in {text!r}; write one where a word is to go")
    limit = tokenizer.model_max_length
    if ids.shape[1] > limit:
        raise ConfigError(
            f"the text {text[:40]!r}... has {ids.shape[1]} tokens, but "
            f"{tokenizer.name_or_path or 'the model'} takes {limit}; shorten it"
        )
    return encoding


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are not UTF-8
        raise ConfigError(f"{text!r} is not UTF-8 text; write it in that encoding") from error


def fill_mask(
    model: Any, tokenizer: PreTrainedTokenizerFast, text: str, top_k: int = 5
) -> list[list[Prediction]]:
    """Predict the `top_k` likeliest tokens for each mask in `text`; see `predict_masks`."""
    masks = predict_masks(model, tokenizer, text, top_k, TargetWords((), tokenizer))
    return [list(mask.predictions) for mask in masks]


def predict_masks(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    top_k: int,
    targets: TargetWords,
) -> list[MaskPredictions]:
    """Predict the `top_k` likeliest tokens for each mask in `text`, and score the user's words.

    The model may have a head for pairs and be on any device. It is left in its training mode.

    Raises:
        ConfigError: The text has no mask, or is longer than the model takes.
    """
    encoding = encode_masked_text(tokenizer, text)
    own_text = text.replace(ANY_MASK, str(tokenizer.mask_token))
    input_ids = encoding["input_ids"][0]
    positions = (input_ids == tokenizer.mask_token_id).nonzero()[:, 0].tolist()

    device = next(model.parameters()).device
    with in_evaluation_mode(model), torch.inference_mode():
        output = model(**encoding.to(device))
        logits = token_logits(output)[0].float().cpu()  # (T, V)
    return [
        MaskPredictions(
            predictions=tuple(
                _prediction(tokenizer, input_ids, position, float(score), int(token))
                for score, token in zip(
                    *logits[position].softmax(dim=-1).topk(min(top_k, logits.shape[-1])),
                    strict=True,
                )
            ),
            targets=tuple(
                _scored(target, logits[position])
                for target in targets.at(_text_before(encoding, position, own_text))
            ),
        )
        for position in positions
    ]


def _text_before(encoding: BatchEncoding, position: int, text: str) -> str:
    """Return the text before the mask at a position among the tokens."""
    span = encoding.token_to_chars(0, position)
    assert span is not None  # only special tokens that the tokenizer adds have no span
    start = span.start
    # A mask token may include the space before it (RoBERTa's does).
    return text[: start + 1] if text[start].isspace() else text[:start]


def _scored(target: Target, logits: torch.Tensor) -> Target:
    """Return a target with its probability and rank by the logits (V,) of its mask."""
    if target.token is None:
        return target
    return replace(
        target,
        score=float(logits.softmax(dim=-1)[target.token]),
        rank=1 + int((logits > logits[target.token]).sum()),
    )


def _prediction(
    tokenizer: PreTrainedTokenizerFast, ids: torch.Tensor, position: int, score: float, token: int
) -> Prediction:
    filled = ids.clone()
    filled[position] = token
    return Prediction(
        score=score,
        token=token,
        token_str=str(tokenizer.decode([token])).strip(),
        sequence=as_text(tokenizer, filled.tolist()),
    )


def as_text(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """Decode tokens; of the special tokens, only masks are shown."""
    left_out = set(role_tokens(tokenizer).values()) - {tokenizer.mask_token_id}
    shown = [id_ for id_ in ids if id_ not in left_out]
    return str(tokenizer.decode(shown))
