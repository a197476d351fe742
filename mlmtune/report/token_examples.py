"""Examples for a report: masked tokens on which base and adapted model differ most."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mlmtune.corpus.cleaning import UNSPACED
from mlmtune.evaluation.fill_mask import ANY_MASK, as_text, encode_masked_text, fill_mask
from mlmtune.evaluation.scoring import TokenScores
from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch
from mlmtune.report.findings import Opinion, ProposedWord, Question, TokenExample
from mlmtune.report.measuring import MeasuredModel
from mlmtune.training.setup import ModelAndText

NUM_EXAMPLES = 5
NUM_CANDIDATES = 5
CONTEXT_TOKENS = 24
"""How many tokens are shown on each side, and the rest of a word that they cut."""

UNSEEN = "\u2026"
"""Stands for a part of a word that the models did not see."""

_IDEOGRAPH = rf"[{UNSPACED}\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]"
"""An ideograph, or the punctuation between ideographs."""
_BETWEEN_IDEOGRAPHS = re.compile(rf"(?<={_IDEOGRAPH}) (?={_IDEOGRAPH})")
_LETTER = re.compile(rf"(?!{_IDEOGRAPH})[^\W_]")
_END_OF_WORD = re.compile(rf"(?:{_LETTER.pattern})*$")
"""The letters at the end of a text that a piece without a space before it continues."""


def furthest_apart(
    models: Mapping[str, MeasuredModel], scores: Mapping[str, TokenScores]
) -> tuple[tuple[TokenExample, ...], tuple[TokenExample, ...]]:
    """Return the tokens on which the adapted model gained most over the base, and lost most.

    At most one token per document is chosen, and only tokens that were replaced by the mask.

    Args:
        models: The base and the adapted model, by name.
        scores: Their scores on the text of the domain.
    """
    base, adapted = scores.values()
    gains = base.losses - adapted.losses
    order = np.argsort(-gains, kind="stable")  # the same examples on every machine
    gained = _examples(order[gains[order] > 0], gains, models, base)
    lost = _examples(order[::-1][gains[order[::-1]] < 0], gains, models, base)
    return gained, lost


def _examples(
    order: NDArray[np.int64],
    gains: NDArray[np.float64],
    models: Mapping[str, MeasuredModel],
    scores: TokenScores,
) -> tuple[TokenExample, ...]:
    first = next(iter(models.values())).setup
    store, tokenizer = first.store, first.loaded.tokenizer
    chosen: dict[int, tuple[int, MaskedBatch, _MaskedWord]] = {}
    for number in order.tolist():
        if len(chosen) == NUM_EXAMPLES:
            break
        document = int(store.documents_at(scores.positions[number]))
        token = str(tokenizer.decode([int(scores.labels[number])]))
        if document in chosen or not any(character.isalpha() for character in token):
            continue
        batch = first.evaluator.masks.batch(
            scores.chunks[number : number + 1], int(scores.draws[number])
        )
        column = int(scores.columns[number])
        if int(batch.input_ids[0, column]) != tokenizer.mask_token_id:
            continue  # left as it was, or replaced by a random token
        word = _MaskedWord.of(first, int(scores.chunks[number]), batch, column)
        if word is not None:
            chosen[document] = (number, batch, word)
    document_ids = store.document_ids(list(chosen))
    examples = []
    for id_, (document, (number, batch, word)) in zip(document_ids, chosen.items(), strict=True):
        column = int(scores.columns[number])
        examples.append(
            TokenExample(
                source=store.sources[int(store.documents.sources[document])].name,
                document=id_,
                before=word.before,
                word=word.text,
                token=_behind_mask(tokenizer, int(scores.labels[number])),
                after=word.after,
                gain=float(gains[number]),
                opinions=tuple(
                    _opinion(name, model, batch, column, word) for name, model in models.items()
                ),
            )
        )
    return tuple(examples)


@dataclass(frozen=True)
class _MaskedWord:
    """The word of a masked token, in its document as the models saw it.

    Attributes:
        before: The text before the word; a space at its end is that between them.
        after: The text after it.
        left: The ids before the token, with the mask where a token was masked or replaced.
        right: The ids after it that belong to its word.
    """

    before: str
    text: str
    after: str
    left: list[int]
    right: list[int]

    @classmethod
    def of(cls, setup: ModelAndText, chunk: int, batch: MaskedBatch, column: int) -> Self | None:
        """Find the word of the token in a column of a batch of one chunk.

        Words that the chunk cuts at its ends are not shown; None if the token's word is one.
        """
        store, tokenizer = setup.store, setup.loaded.tokenizer
        positions = setup.evaluator.masks.view.positions(np.asarray([chunk]))[0]
        documents = store.documents_at(positions)
        columns = np.flatnonzero((positions >= 0) & (documents == documents[column]))
        ids, begins = store.tokens_at(positions[columns])
        is_whole = bool(begins[0]) or positions[columns[0]] == store.offsets[documents[column]]
        begins[0] = True  # the word that a chunk cuts begins with what the chunk has of it
        words = np.cumsum(begins)
        is_cut = (words == words[0]) & (not is_whole)
        following = positions[columns[-1:]] + 1
        if following[0] < store.offsets[documents[column] + 1]:
            is_cut |= (words == words[-1]) & ~store.tokens_at(following)[1]
        at = int(np.searchsorted(columns, column))
        low, high = words[max(at - CONTEXT_TOKENS, 0)], words[at + CONTEXT_TOKENS :][:1]
        in_window = (words >= low) & (words <= (high[0] if len(high) else words[-1])) & ~is_cut
        if is_cut[at]:
            return None

        labels = batch.labels[0].numpy()[columns]
        seen = batch.input_ids[0].numpy()[columns]
        is_hidden = (labels != IGNORE_INDEX) & (labels != seen)
        seen = np.where(is_hidden, tokenizer.mask_token_id, ids)
        is_word = words == words[at]
        is_blank = np.isin(words, words[is_hidden])
        blanked = np.where(is_blank, tokenizer.mask_token_id, ids)
        is_shown = in_window & (begins | ~is_blank)  # one blank for a word, not for each token
        before, word, after = (
            blanked[is_shown & (words < words[at])],
            ids[is_word],
            blanked[is_shown & (words > words[at])],
        )
        return cls(
            before=_with_blanks(tokenizer, before) + _space(tokenizer, before, word),
            text=_text(tokenizer, word),
            after=_space(tokenizer, word, after) + _with_blanks(tokenizer, after),
            left=seen[:at][in_window[:at]].tolist(),
            right=seen[at + 1 :][is_word[at + 1 :]].tolist(),
        )


def _text(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """Decode tokens, without the spaces that a tokenizer puts between ideographs."""
    return _BETWEEN_IDEOGRAPHS.sub("", as_text(tokenizer, list(ids)).strip())


def _with_blanks(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """Decode tokens, with `[MASK]` for each mask, which some tokenizers join to the text before."""
    mask = re.compile(rf"\s*{re.escape(str(tokenizer.mask_token))}")
    return mask.sub(f" {ANY_MASK}", _text(tokenizer, ids)).strip()


def _space(tokenizer: PreTrainedTokenizerFast, before: Sequence[int], after: Sequence[int]) -> str:
    """Return the space between two texts; there is none between ideographs, for example."""
    texts = _text(tokenizer, before), _text(tokenizer, after)
    return "" if _text(tokenizer, [*before, *after]) == "".join(texts) else " "


def _behind_mask(tokenizer: PreTrainedTokenizerFast, token: int) -> str:
    """Return the text of a token as it stands in a text: `s` for what is `##s` alone."""
    behind = _text(tokenizer, [tokenizer.mask_token_id, token])
    return behind.removeprefix(str(tokenizer.mask_token)).strip()


def in_its_word(
    tokenizer: PreTrainedTokenizerFast, left: Sequence[int], token: int, right: Sequence[int]
) -> str:
    """Return the whole word that a proposed token makes with the tokens around it.

    Whether the token continues a word is seen in the decoded text, which is how WordPiece,
    byte-level BPE and SentencePiece are alike. Each ideograph is a word.

    Args:
        tokenizer: Decodes the tokens.
        left: The ids before it; what the model did not see is the mask.
        token: The id of the token.
        right: The ids after it that belong to the masked word.
    """
    mask = str(tokenizer.mask_token)
    if not _text(tokenizer, left) and _text(tokenizer, [token]) != _behind_mask(tokenizer, token):
        left = [tokenizer.mask_token_id]  # a piece that cannot begin a text, such as `##s`
    sequences = left, [*left, token], [*left, token, *right]
    before, whole, full = (_text(tokenizer, ids) for ids in sequences)
    if not (whole.startswith(before) and full.startswith(whole)):
        return _text(tokenizer, [token])  # a part of a character is no text
    piece, begin = whole[len(before) :], ""
    if before and _LETTER.match(piece):
        begin = mask if before.endswith(mask) else _END_OF_WORD.findall(before)[0]
    word = begin + full[len(before) :]
    word = re.sub(rf"\s*{re.escape(mask)}\s*", UNSEEN, word).strip()
    return word or str(tokenizer.convert_ids_to_tokens(token))


def _opinion(
    name: str, model: MeasuredModel, batch: MaskedBatch, column: int, word: _MaskedWord
) -> Opinion:
    loaded, on_device = model.setup.loaded, batch.to(model.device)
    row = int((batch.masked_positions == column).nonzero()[0])
    with model.computing():
        logits = torch.cat([*model.setup.head.outputs(loaded.model, on_device).logits()])
    scores = logits[row].softmax(dim=-1).cpu()
    label = int(batch.labels[0, column])
    likeliest = torch.topk(scores, min(NUM_CANDIDATES, len(scores)))
    return Opinion(
        model=name,
        loss=float(-scores[label].clamp(min=1e-45).log()),  # 0 has no logarithm
        candidates=tuple(
            _proposed(loaded.tokenizer, word.left, token, word.right, score)
            for score, token in zip(
                likeliest.values.tolist(), likeliest.indices.tolist(), strict=True
            )
        ),
    )


def ask(name: str, model: MeasuredModel, texts: list[str]) -> Iterator[tuple[Opinion, ...]]:
    """Yield what a model predicts for the masks of each sentence.

    Raises:
        ConfigError: A sentence has no mask, or is too long.
    """
    loaded = model.setup.loaded
    for text in texts:
        ids = encode_masked_text(loaded.tokenizer, text)["input_ids"][0]
        masks = (ids == loaded.tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        by_mask = fill_mask(loaded.model, loaded.tokenizer, text, NUM_CANDIDATES)
        yield tuple(
            Opinion(
                name,
                None,
                tuple(
                    _proposed(loaded.tokenizer, ids[:position].tolist(), p.token, [], p.score)
                    for p in predictions
                ),
            )
            for position, predictions in zip(masks, by_mask, strict=True)
        )


def _proposed(
    tokenizer: PreTrainedTokenizerFast,
    left: Sequence[int],
    token: int,
    right: Sequence[int],
    score: float,
) -> ProposedWord:
    word = in_its_word(tokenizer, left, token, right)
    return ProposedWord(word, str(tokenizer.decode([token])).strip(), score)


def questions(
    texts: list[str], answers: Mapping[str, list[tuple[Opinion, ...]]]
) -> tuple[Question, ...]:
    """Return the sentences with the answers of every model: an opinion per sentence and mask."""
    return tuple(
        Question(
            text, tuple(zip(*(of_model[number] for of_model in answers.values()), strict=True))
        )
        for number, text in enumerate(texts)
    )
