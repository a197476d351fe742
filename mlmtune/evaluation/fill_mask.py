"""The model's predictions for the mask tokens in a sentence."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerFast

from mlmtune.errors import ConfigError
from mlmtune.modeling.pair_head import token_logits
from mlmtune.tokens.encoding import plain_backend, role_tokens
from mlmtune.tokens.unknown import unknown_token_id

ANY_MASK = "[MASK]"
"""What a user may write for any tokenizer's own mask token."""


@dataclass(frozen=True)
class Prediction:
    """One candidate for one mask, under the names of transformers' fill-mask pipeline.

    Attributes:
        score: its probability.
        token: its id.
        token_str: its text.
        sequence: the sentence with it filled in; other masks stay as they are.
    """

    score: float
    token: int
    token_str: str
    sequence: str


@dataclass(frozen=True)
class Target:
    """A word that was asked for, at one mask.

    Attributes:
        word: as it was asked for.
        pieces: what the tokenizer makes of it where the mask stands, as the vocabulary writes it.
        token: id of the token that was looked up; None where no token is the word.
        token_str: that token as the vocabulary writes it.
        score: its probability.
        rank: its place among all tokens of the vocabulary; 1 is the likeliest.
    """

    word: str
    pieces: tuple[str, ...]
    token: int | None = None
    token_str: str | None = None
    score: float | None = None
    rank: int | None = None


@dataclass(frozen=True)
class MaskPredictions:
    """What a model says of one mask.

    Attributes:
        predictions: the likeliest tokens, the likeliest first.
        targets: the words that were asked for, in their order.
    """

    predictions: tuple[Prediction, ...]
    targets: tuple[Target, ...]


class TargetWords:
    """Words to look up, and the tokens that they are in one vocabulary.

    Args:
        words: as the user wrote them, without spaces around them.
        tokenizer: whose vocabulary it is.

    Raises:
        ConfigError: a word is not Unicode text.
    """

    def __init__(self, words: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> None:
        self._words = tuple(words)
        for word in self._words:
            _check_unicode(word)
        # The vocabulary of a large tokenizer is not copied where there is nothing to look up.
        self._backend = plain_backend(tokenizer) if self._words else None
        self._vocabulary = tokenizer.get_vocab() if self._words else {}
        self._names = {id_: name for name, id_ in self._vocabulary.items()}
        self._unknown_id = unknown_token_id(tokenizer)

    def at(self, before: str) -> list[Target]:
        """The words as they would stand at a mask, not scored yet.

        Args:
            before: the sentence up to the mask.
        """
        return [self._find(word, before) for word in self._words]

    def _find(self, word: str, before: str) -> Target:
        """The form that fits the place is tried first.

        Byte-level BPE and SentencePiece have a token for a word after a space and another for the
        same letters within a word. What stands in the vocabulary as it is written (`##s`) is a
        token, too.
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
            # SentencePiece's kind sets a space before any text by itself: the entry has none.
            pieces, forms = bare.tokens, [entry, bare.ids, spaced.ids]
        for ids in forms:
            if len(ids) == 1 and ids[0] != self._unknown_id:  # which stands for no word
                return Target(word, tuple(pieces), token=ids[0], token_str=self._names[ids[0]])
        return Target(word, tuple(pieces))


def encode_masked_text(tokenizer: PreTrainedTokenizerFast, text: str) -> BatchEncoding:
    """Encode a sentence that has masks to fill, as one row of tensors.

    Raises:
        ConfigError: no mask in the text, more text than the model takes, or no Unicode text.
    """
    _check_unicode(text)
    encoding: BatchEncoding = tokenizer(
        _with_own_masks(tokenizer, text),
        return_tensors="pt",
        truncation=False,
        padding=False,
        verbose=False,  # that it is too long is said below
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


def _with_own_masks(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    return text.replace(ANY_MASK, str(tokenizer.mask_token))


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are not UTF-8
        raise ConfigError(f"{text!r} is not UTF-8 text; write it in that encoding") from error


def fill_mask(
    model: Any, tokenizer: PreTrainedTokenizerFast, text: str, top_k: int = 5
) -> list[list[Prediction]]:
    """The `top_k` likeliest tokens for each mask in `text`, from left to right.

    Args:
        model: a masked language model, with or without a head for pairs, on any device; left in
            the mode it was in.
        tokenizer: the model's.
        text: a sentence with at least one mask token, or `[MASK]`.
        top_k: number of candidates a mask.

    Raises:
        ConfigError: no mask in the text, or more text than the model takes.
    """
    nothing = TargetWords((), tokenizer)
    masks = predict_masks(model, tokenizer, text, top_k, nothing)
    return [list(mask.predictions) for mask in masks]


def predict_masks(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    top_k: int,
    targets: TargetWords,
) -> list[MaskPredictions]:
    """The `top_k` likeliest tokens for each mask in `text`, and the words that were asked for.

    Args:
        model: a masked language model, with or without a head for pairs, on any device; left in
            the mode it was in.
        tokenizer: the model's.
        text: a sentence with at least one mask token, or `[MASK]`.
        top_k: number of candidates a mask.
        targets: the words, for the same tokenizer.

    Raises:
        ConfigError: no mask in the text, or more text than the model takes.
    """
    encoding = encode_masked_text(tokenizer, text)
    own_text = _with_own_masks(tokenizer, text)
    input_ids = encoding["input_ids"][0]
    places = (input_ids == tokenizer.mask_token_id).nonzero()[:, 0].tolist()

    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            output = model(**encoding.to(device))
            logits = token_logits(output)[0].float().cpu()  # (T, V)
    finally:
        model.train(was_training)
    return [
        MaskPredictions(
            predictions=tuple(
                _prediction(tokenizer, input_ids, place, float(score), int(token))
                for score, token in zip(
                    *logits[place].softmax(dim=-1).topk(min(top_k, logits.shape[-1])), strict=True
                )
            ),
            targets=tuple(
                _scored(target, logits[place])
                for target in targets.at(_text_before(encoding, place, own_text))
            ),
        )
        for place in places
    ]


def _text_before(encoding: BatchEncoding, place: int, text: str) -> str:
    """The text up to the mask at a place.

    Args:
        encoding: of the text.
        place: number of the mask among the tokens.
        text: with the tokenizer's own masks.
    """
    span = encoding.token_to_chars(0, place)
    assert span is not None  # the template has no masks
    start = span.start
    # A mask token may take in the space before it (RoBERTa's does).
    return text[: start + 1] if text[start].isspace() else text[:start]


def _scored(target: Target, logits: torch.Tensor) -> Target:
    """A target with its probability.

    Args:
        target: as found in the vocabulary.
        logits: (V,) of its mask.
    """
    if target.token is None:
        return target
    return replace(
        target,
        score=float(logits.softmax(dim=-1)[target.token]),
        rank=1 + int((logits > logits[target.token]).sum()),
    )


def _prediction(
    tokenizer: PreTrainedTokenizerFast, ids: torch.Tensor, place: int, score: float, token: int
) -> Prediction:
    filled = ids.clone()
    filled[place] = token
    return Prediction(
        score=score,
        token=token,
        token_str=str(tokenizer.decode([token])).strip(),
        sequence=as_text(tokenizer, filled.tolist()),
    )


def as_text(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """Tokens as text; of those with a role in the model's input the masks alone."""
    left_out = set(role_tokens(tokenizer).values()) - {tokenizer.mask_token_id}
    shown = [id_ for id_ in ids if id_ not in left_out]
    return str(tokenizer.decode(shown))
