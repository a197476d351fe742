"""Masked tokens of the validation text on which base and adapted model differ most."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mlmtune.corpus.cleaning import UNSPACED
from mlmtune.evaluation.fill_mask import fill_mask
from mlmtune.evaluation.scoring import TokenScores
from mlmtune.masking.collator import MaskedBatch
from mlmtune.proof.findings import Candidate, Example, Opinion, Question
from mlmtune.proof.measuring import Subject

NUM_EXAMPLES = 5
NUM_CANDIDATES = 5
CONTEXT_TOKENS = 24
"""Tokens shown on each side."""

_IDEOGRAPH = rf"[{UNSPACED}\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]"
"""With the punctuation that stands between them."""
_BETWEEN_IDEOGRAPHS = re.compile(rf"(?<={_IDEOGRAPH}) (?={_IDEOGRAPH})")


def furthest_apart(
    subjects: Mapping[str, Subject], scores: Mapping[str, TokenScores]
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The masked words on which the second model gained most against the first, and lost most.

    Of each document one token at most, and only tokens that stand under the mask.

    Args:
        subjects: base and adapted model, by name.
        scores: what they say of the domain's text.
    """
    base, adapted = scores.values()
    gains = base.losses - adapted.losses
    order = np.argsort(-gains, kind="stable")
    gained = _examples(order[gains[order] > 0], gains, subjects, base)
    lost = _examples(order[::-1][gains[order[::-1]] < 0], gains, subjects, base)
    return gained, lost


def _examples(
    order: NDArray[np.int64],
    gains: NDArray[np.float64],
    subjects: Mapping[str, Subject],
    scores: TokenScores,
) -> tuple[Example, ...]:
    found: list[Example] = []
    seen: set[int] = set()
    first = next(iter(subjects.values()))
    store = first.masks.view.store
    for number in order.tolist():
        if len(found) == NUM_EXAMPLES:
            break
        document = int(np.searchsorted(store.offsets, scores.positions[number], "right")) - 1
        if document in seen or not _is_word(first.loaded.tokenizer, int(scores.labels[number])):
            continue
        chunk, column = int(scores.chunks[number]), int(scores.columns[number])
        batch = first.masks.batch(np.asarray([chunk]))
        if int(batch.input_ids[0, column]) != first.loaded.tokenizer.mask_token_id:
            continue  # left as it was, or replaced: not what a reader would take for a question
        seen.add(document)
        before, after = _context(first.loaded.tokenizer, batch, column)
        found.append(
            Example(
                source=store.sources[int(store.document_sources[document])].name,
                document=store.document_ids([document])[0],
                before=before,
                token=_text(first.loaded.tokenizer, [int(scores.labels[number])]),
                after=after,
                gain=float(gains[number]),
                opinions=tuple(
                    _opinion(name, subject, batch, column) for name, subject in subjects.items()
                ),
            )
        )
    return tuple(found)


def _is_word(tokenizer: PreTrainedTokenizerFast, token: int) -> bool:
    return any(character.isalpha() for character in str(tokenizer.decode([token])))


def _context(
    tokenizer: PreTrainedTokenizerFast, batch: MaskedBatch, column: int
) -> tuple[str, str]:
    ids = batch.input_ids[0].tolist()
    before = ids[max(column - CONTEXT_TOKENS, 0) : column]
    return _text(tokenizer, before), _text(tokenizer, ids[column + 1 : column + 1 + CONTEXT_TOKENS])


def _text(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """Tokens as text, masks in it; without the spaces that a tokenizer sets between ideographs."""
    shown = [
        id_ for id_ in ids
        if id_ == tokenizer.mask_token_id or id_ not in tokenizer.all_special_ids
    ]  # fmt: skip
    return _BETWEEN_IDEOGRAPHS.sub("", str(tokenizer.decode(shown)).strip())


def _opinion(name: str, subject: Subject, batch: MaskedBatch, column: int) -> Opinion:
    on_device = batch.to(subject.device)
    row = int((batch.masked_positions == column).nonzero()[0])
    with subject.computing():
        logits = subject.head.outputs(subject.loaded.model, on_device).logits[row].float()
    scores = logits.softmax(dim=-1).cpu()
    label = int(batch.labels[0, column])
    tokenizer = subject.loaded.tokenizer
    likeliest = torch.topk(scores, min(NUM_CANDIDATES, len(scores)))
    return Opinion(
        model=name,
        loss=float(-scores[label].clamp(min=1e-45).log()),
        candidates=tuple(
            Candidate(_text(tokenizer, [token]), score)
            for score, token in zip(
                likeliest.values.tolist(), likeliest.indices.tolist(), strict=True
            )
        ),
    )


def ask(name: str, subject: Subject, texts: list[str]) -> Iterator[tuple[Opinion, ...]]:
    """What a model proposes for the masks of each of some sentences.

    Raises:
        ConfigError: a sentence has no mask, or is too long.
    """
    for text in texts:
        yield tuple(
            Opinion(name, None, tuple(Candidate(p.token_str, p.score) for p in predictions))
            for predictions in fill_mask(
                subject.loaded.model, subject.loaded.tokenizer, text, NUM_CANDIDATES
            )
        )


def questions(
    texts: list[str], answers: Mapping[str, list[tuple[Opinion, ...]]]
) -> tuple[Question, ...]:
    """The sentences with every model's answers.

    Args:
        texts: the sentences.
        answers: of each model, for each sentence, an opinion a mask.
    """
    return tuple(
        Question(
            text, tuple(zip(*(of_model[number] for of_model in answers.values()), strict=True))
        )
        for number, text in enumerate(texts)
    )
