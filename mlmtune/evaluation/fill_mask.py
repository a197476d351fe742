"""The model's predictions for the mask tokens in a sentence."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerFast

from mlmtune.errors import ConfigError
from mlmtune.modeling.pair_head import token_logits

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


def encode_masked_text(tokenizer: PreTrainedTokenizerFast, text: str) -> BatchEncoding:
    """Encode a sentence that has masks to fill, as one row of tensors.

    Raises:
        ConfigError: no mask in the text, or more text than the model takes.
    """
    encoding: BatchEncoding = tokenizer(
        text.replace(ANY_MASK, str(tokenizer.mask_token)),
        return_tensors="pt",
        truncation=False,
        padding=False,
    )
    ids = encoding["input_ids"]
    if not (ids == tokenizer.mask_token_id).any():
        raise ConfigError(f"there is no {ANY_MASK} in {text!r}; write one where a word is to go")
    limit = tokenizer.model_max_length
    if ids.shape[1] > limit:
        raise ConfigError(
            f"the text {text[:40]!r}... has {ids.shape[1]} tokens, but the model takes {limit}; "
            "shorten it"
        )
    return encoding


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
    encoding = encode_masked_text(tokenizer, text)
    input_ids = encoding["input_ids"]
    places = (input_ids[0] == tokenizer.mask_token_id).nonzero()[:, 0]

    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            output = model(**encoding.to(device))
            logits = token_logits(output)[0].float().cpu()  # (T, V)
    finally:
        model.train(was_training)
    top_k = min(top_k, logits.shape[-1])
    return [
        [
            _prediction(tokenizer, input_ids[0], int(place), float(score), int(token))
            for score, token in zip(*logits[place].softmax(dim=-1).topk(top_k), strict=True)
        ]
        for place in places
    ]


def _prediction(
    tokenizer: PreTrainedTokenizerFast, ids: torch.Tensor, place: int, score: float, token: int
) -> Prediction:
    filled = ids.clone()
    filled[place] = token
    kept = [
        id_ for id_ in filled.tolist()
        if id_ == tokenizer.mask_token_id or id_ not in tokenizer.all_special_ids
    ]  # fmt: skip
    return Prediction(
        score=score,
        token=token,
        token_str=str(tokenizer.decode([token])).strip(),
        sequence=str(tokenizer.decode(kept)),
    )
