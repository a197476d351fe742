"""Examples for a report: masked tokens on which base and adapted model differ most."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mlmtune.corpus.cleaning import UNSPACED
from mlmtune.evaluation.fill_mask import as_text, fill_mask
from mlmtune.evaluation.scoring import TokenScores
from mlmtune.masking.collator import MaskedBatch
from mlmtune.report.findings import Opinion, ProposedToken, Question, TokenExample
from mlmtune.report.measuring import MeasuredModel

NUM_EXAMPLES = 5
NUM_CANDIDATES = 5
CONTEXT_TOKENS = 24
"""How many tokens are shown on each side."""

_IDEOGRAPH = rf"[{UNSPACED}\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]"
"""An ideograph, or the punctuation between ideographs."""
_BETWEEN_IDEOGRAPHS = re.compile(rf"(?<={_IDEOGRAPH}) (?={_IDEOGRAPH})")


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
    chosen: dict[int, tuple[int, MaskedBatch]] = {}
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
        if int(batch.input_ids[0, scores.columns[number]]) == tokenizer.mask_token_id:
            # The others were left as they were, or replaced by a random token.
            chosen[document] = (number, batch)
    document_ids = store.document_ids(list(chosen))
    examples = []
    for id_, (document, (number, batch)) in zip(document_ids, chosen.items(), strict=True):
        column, ids = int(scores.columns[number]), batch.input_ids[0].tolist()
        examples.append(
            TokenExample(
                source=store.sources[int(store.documents.sources[document])].name,
                document=id_,
                before=_text(tokenizer, ids[max(column - CONTEXT_TOKENS, 0) : column]),
                token=_text(tokenizer, [int(scores.labels[number])]),
                after=_text(tokenizer, ids[column + 1 : column + 1 + CONTEXT_TOKENS]),
                gain=float(gains[number]),
                opinions=tuple(
                    _opinion(name, model, batch, column) for name, model in models.items()
                ),
            )
        )
    return tuple(examples)


def _text(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """Decode tokens, without the spaces that a tokenizer puts between ideographs."""
    return _BETWEEN_IDEOGRAPHS.sub("", as_text(tokenizer, ids).strip())


def _opinion(name: str, model: MeasuredModel, batch: MaskedBatch, column: int) -> Opinion:
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
            ProposedToken(_text(loaded.tokenizer, [token]), score)
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
        yield tuple(
            Opinion(name, None, tuple(ProposedToken(p.token_str, p.score) for p in predictions))
            for predictions in fill_mask(loaded.model, loaded.tokenizer, text, NUM_CANDIDATES)
        )


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
