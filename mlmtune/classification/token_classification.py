"""Token classification as a task of the training loop: named entities."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mlmtune.classification.entity_data import EntityData, SentenceSide
from mlmtune.classification.entity_metrics import (
    ERROR_KINDS,
    EXAMPLES_PER_KIND,
    EntityScores,
    decoded,
    errors_of,
)
from mlmtune.classification.labelled_task import LabelledTask
from mlmtune.classification.metrics import cross_entropies, probabilities
from mlmtune.classification.sentence_batches import EncodedSentences, SentenceBatch
from mlmtune.classification.sides import TaskData
from mlmtune.classification.tags import Tags
from mlmtune.config import ClassificationConfig
from mlmtune.masking.collator import IGNORE_INDEX
from mlmtune.modeling.loading import LoadedModel
from mlmtune.modeling.losses import LOSS, Losses
from mlmtune.numbers import f1, share
from mlmtune.printable import counted
from mlmtune.sharing.card import Card
from mlmtune.sharing.entity_card import entity_card, entity_snippet
from mlmtune.tables import table
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.run_dir import RunDir


@dataclass(frozen=True)
class TokenClassification(LabelledTask[SentenceSide, EncodedSentences]):
    """The task `entities`: a tag for each word of a sentence. Long sentences are windows."""

    data: EntityData

    num_targets_name: ClassVar[str] = "num_words"

    @classmethod
    def encoder(
        cls, data: TaskData[SentenceSide], config: ClassificationConfig, loaded: LoadedModel
    ) -> Callable[[SentenceSide], EncodedSentences]:
        return lambda side: EncodedSentences.of(side, loaded, config.data.max_length)

    def losses(self, model: Any, batch: SentenceBatch) -> Losses:
        logits = model(**batch.inputs).logits.float()
        loss = functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), reduction="sum", ignore_index=IGNORE_INDEX
        )
        return Losses({LOSS: loss})

    def num_targets(self, batch: SentenceBatch) -> dict[str, int]:
        return {LOSS: int(batch.is_predicted.sum())}

    def memory_shape(self, micro_batch_size: int, device: torch.device) -> tuple[int, int]:
        length = int(self.train.lengths.max())
        return length, micro_batch_size * length * len(self.data.labels)

    # ----------------------------------------------------------------------------- measuring

    def scores(self, side: SentenceSide, logits: NDArray[np.float32]) -> EntityScores:
        losses = cross_entropies(probabilities(logits), side.labels)
        tags = _tags(logits, self.data.labels, side)
        return EntityScores.of(float(np.nanmean(losses)), side.tags, tags, self.config.metric)

    def test_results(
        self, side: SentenceSide, logits: NDArray[np.float32]
    ) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        scores = self.scores(side, logits)
        results = scores.to_json() | {
            "micro_f1_interval": scores.micro_f1_interval,
            "error_examples": _error_examples(side, scores.predicted),
        }
        return results, _predictions(side, scores.predicted, probabilities(logits))

    # ------------------------------------------------------------------- records and the card

    def record(self, side: SentenceSide, encoded: EncodedSentences) -> dict[str, Any]:
        return {
            "sentences": len(side),
            "words": len(side.labels),
            "tokens": int(encoded.lengths.sum()),
            "split": encoded.num_split,
            "dropped_words": encoded.num_dropped,
            "cut_words": encoded.num_cut,
            "by_type": {
                type_: int((side.labels == 1 + 2 * number).sum())
                for number, type_ in enumerate(self.data.types)
            },
        }

    def card(
        self, folder: Path, results: dict[str, Any], records: Mapping[str, Any], name: str
    ) -> Card:
        return entity_card(name, self.config, results, records, entity_snippet(folder))

    # -------------------------------------------------------------------------- for people

    def announce(self, state: TrainState, run: RunDir) -> Iterator[str]:
        yield from self.data.notes
        for name, side, encoded in self.sides():
            if encoded.num_split:
                yield (
                    f"{name}: {encoded.num_split:,} of {counted(len(side), 'sentence')} have more "
                    f"tokens than data.max_length: {self.config.data.max_length}; they are split, "
                    "with context on both sides"
                )
            if encoded.num_dropped:
                yield (
                    f"{name}: the tokenizer makes no token of {encoded.num_dropped:,} of "
                    f"{counted(len(side.labels), 'word')}; they are not trained on, and predicted "
                    "as part of an entity around them, or else as O"
                )
            if encoded.num_cut:
                yield (
                    f"{name}: of {counted(encoded.num_cut, 'word')}, only the first half of "
                    f"data.max_length: {self.config.data.max_length} tokens is read"
                )

    def sizes(self) -> str:
        sides = [f"{len(side):,} {name}" for name, side, _ in self.sides()]
        types = counted(len(self.data.types), "type of entity", "types of entities")
        return f"{', '.join(sides)} sentences with {types}"

    def summary(self, results: dict[str, Any]) -> Iterator[str]:
        sides = {"eval": "validation", "test": "test"}
        measured = [side for side in sides if f"{side}_micro_f1" in results]
        for side in measured:
            micro_f1 = results[f"{side}_micro_f1"], results.get(f"{side}_micro_f1_interval")
            yield (
                f"{sides[side] + ':':12}entity F1 {f1(*micro_f1)}, precision "
                f"{share(results[f'{side}_precision'])}, recall {share(results[f'{side}_recall'])} "
                f"on {counted(results[f'{side}_num_entities'], 'entity', 'entities')}"
            )
        side = measured[-1]
        yield ""
        yield from _type_table(sides[side], results[f"{side}_per_type"])
        yield ""
        yield from _error_table(results[f"{side}_errors"])

    def how_to_try(self, run: RunDir) -> str:
        return (
            'python -c "from transformers import pipeline; '
            f"print(pipeline('token-classification', '{run.model}', "
            "aggregation_strategy='first')('your text'))\""
        )


def _tags(logits: NDArray[np.float32], labels: Sequence[str], side: SentenceSide) -> list[Tags]:
    """Return the tags of each sentence; a dropped word has NaN for logits."""
    numbers = np.where(np.isnan(logits[:, 0]), -1, logits.argmax(axis=1))
    return decoded(numbers, labels, side.ends)


def _predictions(
    side: SentenceSide, tags: Sequence[Tags], of_words: NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    scores = np.split(of_words.max(axis=1), side.ends[:-1])
    for name, words, true, guess, row in zip(
        side.names, side.tokens, side.tags, tags, scores, strict=True
    ):
        yield {
            "example": name,
            "tokens": words,
            "tags": true,
            "prediction": guess,
            "scores": [None if np.isnan(score) else round(float(score), 6) for score in row],
        }


def _error_examples(side: SentenceSide, tags: Sequence[Tags]) -> dict[str, list[dict[str, Any]]]:
    """Return the first errors of each kind, with the words of the true and the predicted entity."""
    examples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, words, true, guess in zip(side.names, side.tokens, side.tags, tags, strict=True):
        for kind, entity, other in errors_of(true, guess):
            if len(examples[kind]) == EXAMPLES_PER_KIND:
                continue
            example: dict[str, Any] = {"example": name, "is": None, "predicted": None}
            for key, found in (("is", entity), ("predicted", other)):
                if found is not None and not (kind == "missed" and key == "predicted"):
                    text = " ".join(words[found.first : found.last + 1])
                    example[key] = {"type": found.type, "text": text}
            examples[kind].append(example)
    return {kind: examples[kind] for kind in ERROR_KINDS}


def _type_table(name: str, per_type: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    rows = [["type", "precision", "recall", "F1", f"{name} entities"]]
    for type_, scores in per_type.items():
        shares = [share(scores[key]) for key in ("precision", "recall")]
        rows.append([type_, *shares, f1(scores["f1"]), f"{scores['num_entities']:,}"])
    return table(rows)


def _error_table(counts: Mapping[str, int]) -> Iterator[str]:
    rows = [["errors", "number", "what they are"]]
    rows += [[kind, f"{counts[kind]:,}", what] for kind, what in ERROR_KINDS.items()]
    return table(rows)
