"""What a merge found: the content of merge.json, which merge.html and the model card show."""

from dataclasses import asdict, dataclass
from typing import Any

from mlmtune.report.findings import Estimate, Measurement, RetrievalMeasurement, Text

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Point:
    """A merged model, measured.

    Attributes:
        alpha: The share of the adapted weights, from 0 (the base) to 1.
        domain: Its measurement on the validation text; the change is from the base.
        general: Its measurement on general text; None if there is none.
        retrieval: How well it finds validation documents; None if there are too few. The change is
            from the base.
        behind_best: Its loss on the validation text minus the best model's, in nats per token; None
            for the best.
        behind_best_retrieval: Its nDCG at 10 minus that of the model that finds best; None for that
            model.
    """

    alpha: float
    domain: Measurement
    general: Measurement | None
    retrieval: RetrievalMeasurement | None = None
    behind_best: Estimate | None = None
    behind_best_retrieval: Estimate | None = None


@dataclass(frozen=True)
class OtherRun:
    """A run that is not merged, measured beside the merged models.

    Attributes:
        domain, general, retrieval: As those of a `Point`.
        against_domain: Its loss on the validation text minus that of the model that is written, in
            nats per token.
        against_general: The same on general text; None if there is none.
        against_retrieval: Its nDCG at 10 minus that of the model that is written; None if retrieval
            was not measured.
    """

    name: str
    path: str
    domain: Measurement
    general: Measurement | None
    retrieval: RetrievalMeasurement | None
    against_domain: Estimate
    against_general: Estimate | None
    against_retrieval: Estimate | None


@dataclass(frozen=True)
class Choice:
    """The model that is written, and why.

    Attributes:
        rule: The rule, in a sentence.
    """

    alpha: float
    rule: str


@dataclass(frozen=True)
class Merge:
    """A merge: the content of merge.json.

    Attributes:
        created_at: The time in UTC.
        base: The base as the runs name it.
        runs: The directories of the runs; the adapted weights are the mean of theirs.
        new_weights: The weights that the base lacks, taken from the runs at every alpha.
        has_new_head: Whether the masked-LM head is one of them.
        texts: The texts that they were measured on, that of the domain first; the measurements are
            in the points.
        points: The measured models, by alpha.
        others: The runs that they were compared with.
        bm25: How well BM25 finds validation documents; None if retrieval was not measured.
        notes: What the reader must know about the numbers.
    """

    created_at: str
    mlmtune_version: str
    base: str
    runs: tuple[str, ...]
    new_weights: tuple[str, ...]
    has_new_head: bool
    choice: Choice
    texts: tuple[Text, ...]
    points: tuple[Point, ...]
    others: tuple[OtherRun, ...]
    bm25: RetrievalMeasurement | None
    notes: tuple[str, ...]

    @property
    def chosen(self) -> Point:
        """The measurements of the model that is written."""
        return next(point for point in self.points if point.alpha == self.choice.alpha)

    @property
    def has_general(self) -> bool:
        """Whether the models were measured on general text."""
        return self.points[0].general is not None

    def to_json(self) -> dict[str, Any]:
        """Return the content of merge.json, with the version of its format."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}
