"""The findings of a report: the content of report.json, which report.html and report.md show.

The JSON has every number that the pages show, so that other tools can use it. Losses are in nats
per token, shares are between 0 and 1, and intervals are 95 % confidence intervals.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.evaluation.bootstrap import interval
from mlmtune.evaluation.known_text import compares
from mlmtune.training.outcome import Label

FORMAT_VERSION = 3

Method = Literal["frozen", "finetuned"]
METHOD_NAMES: dict[Method, str] = {"frozen": "frozen", "finetuned": "fine-tuned"}
METRIC_NAMES = {
    "accuracy": "accuracy", "macro_f1": "macro-F1", "precision": "precision", "recall": "recall",
    "micro_f1": "entity F1",
}  # fmt: skip
"""The metrics of probes as readers see them."""


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval.

    Attributes:
        value: The number; None if it does not fit a float.
        interval: The 95 % interval; None if there is too little text for one, or if a bound does
            not fit a float.
    """

    value: float | None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, value: float, draws: NDArray[np.float64]) -> Self:
        """Return a number with the interval of 95 % of its draws."""
        return cls(value, interval(draws))

    @classmethod
    def of_each(cls, values: NDArray[np.float64], draws: NDArray[np.float64]) -> list[Self]:
        """Return (K,) numbers, each with the interval of its column of (R, K) draws."""
        return [cls.of(float(each), of) for each, of in zip(values, draws.T, strict=True)]


@dataclass(frozen=True)
class Change:
    """The difference between an adapted model and its base, on the same masked tokens.

    If the base had no masked-LM head of its own, the difference is from token frequencies alone.

    Attributes:
        loss: The difference in nats per token; below 0 the adapted model is better.
        accuracy: The difference in accuracy; above 0 the adapted model is better.
    """

    loss: Estimate
    accuracy: Estimate
    accuracy_top5: Estimate


@dataclass(frozen=True)
class Measurement:
    """One model measured on one text.

    Attributes:
        num_masked_tokens: The number of different tokens that were masked in any draw of masks.
        num_predictions: The number of masked tokens over all draws, which the means are taken over.
        loss: The loss in nats per masked token.
        perplexity: exp(loss), the perplexity per token.
        perplexity_per_word: The perplexity per word of the text that the tokenizer knows,
            independent of the pieces that it cuts words into; None for a part of a text.
        perplexity_per_byte: The perplexity per UTF-8 byte of the text that the tokenizer knows;
            None for a part of a text.
        accuracy: The share of masked tokens whose likeliest prediction is right.
        accuracy_top5: The share of masked tokens that are among the five likeliest predictions.
        change: The difference from what the model is compared with; None for a base, and if their
            tokenizers differ.
        unknown_token_share: The share of the tokens of the text that the tokenizer does not know,
            which are not measured; None for a part of a text.
        unknown_byte_share: The share of the bytes of the text that these tokens stand for; None
            for a part of a text.
    """

    model: str
    num_masked_tokens: int
    num_predictions: int
    loss: Estimate
    perplexity: Estimate
    perplexity_per_word: Estimate | None
    perplexity_per_byte: Estimate | None
    accuracy: Estimate
    accuracy_top5: Estimate
    change: Change | None
    unknown_token_share: float | None = None
    unknown_byte_share: float | None = None


@dataclass(frozen=True)
class TextPart:
    """Each model measured on the masked tokens of one source, or on words of one kind."""

    name: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class WordLosses:
    """The mean loss of words in nats, or its difference; below 0, a difference is for the better.

    Attributes:
        loss: Given the number of the word's pieces, which the masks show. Favours a tokenizer with
            more pieces.
        loss_with_count: With the loss of the number of pieces, by its share of the words. Favours a
            tokenizer with fewer pieces.
    """

    loss: Estimate
    loss_with_count: Estimate

    @property
    def decisive(self) -> Estimate:
        """The loss, with an interval that holds for both ways of counting."""
        one, other = self.loss.interval, self.loss_with_count.interval
        if one is None or other is None:
            return Estimate(self.loss.value)
        return Estimate(self.loss.value, (min(one[0], other[0]), max(one[1], other[1])))


@dataclass(frozen=True)
class WordMeasurement:
    """How well one model predicts the words of a sample.

    Attributes:
        pieces_per_word: The mean number of pieces of its tokenizer.
        change: The difference from what the model is compared with; None for a base.
    """

    model: str
    pieces_per_word: float
    losses: WordLosses
    change: WordLosses | None


@dataclass(frozen=True)
class WordSample:
    """Each model measured on a sample of the words of a text."""

    name: str
    num_words: int
    measurements: tuple[WordMeasurement, ...]


@dataclass(frozen=True)
class WordFindings:
    """The word cloze of a text: the same words for models whose tokenizers differ.

    Attributes:
        num_documents: The documents that the words are of.
        num_left_out: The words that were drawn and are no whole pieces of each of the tokenizers.
        interval_unit: What the intervals resample: words if there are too few documents.
        samples: All words first, then those that the tokenizers cut into different numbers of
            pieces, and the others; a sample with too few words is left out.
    """

    num_documents: int
    num_left_out: int
    interval_unit: Literal["documents", "words"]
    samples: tuple[WordSample, ...]

    def of(self, model: str | None) -> WordMeasurement:
        """Return the measurement of a model on the sample of all words."""
        return next(m for m in self.samples[0].measurements if m.model == model)

    def only(self, model: str) -> Self:
        """Return the findings on a single model."""
        samples = [
            replace(s, measurements=tuple(m for m in s.measurements if m.model == model))
            for s in self.samples
        ]
        return replace(self, samples=tuple(samples))


@dataclass(frozen=True)
class LossChange:
    """How the loss of an adapted model differs from that of what it is compared with.

    Attributes:
        loss: The difference in nats; its value is None if it was not measured.
        unit: What the nats are of.
    """

    loss: Estimate
    unit: Literal["token", "word"]


@dataclass(frozen=True)
class Text:
    """A text that all models were measured on.

    Attributes:
        kind: `domain` is the validation text of the run, `general` is `evaluation.general`.
        num_documents: The number of documents in the evaluated chunks.
        num_chunks: The number of evaluated chunks, in the tokens of the first model.
        num_mask_draws: How many times each chunk was masked.
        interval_unit: What the intervals resample: chunks if there are too few documents.
        measurements: One for each model, in the order of the report.
        sources: The measurements by source; empty if there is only one.
        specificity: The measurements by how domain-specific the masked word is, the most specific
            first; empty for general text, and if there is no general text to compare with.
        words: The same words predicted by each model; None if all have one tokenizer, or if it
            could not be measured, as the notes of the report say.
    """

    name: str
    kind: Literal["domain", "general"]
    num_documents: int
    num_chunks: int
    num_mask_draws: int
    interval_unit: Literal["documents", "chunks"]
    measurements: tuple[Measurement, ...]
    sources: tuple[TextPart, ...] = ()
    specificity: tuple[TextPart, ...] = ()
    words: WordFindings | None = None

    @property
    def compares_bytes(self) -> bool:
        """Whether numbers per word and per byte compare, because all models know as much of it."""
        return compares(m.unknown_byte_share or 0.0 for m in self.measurements)

    def of(self, model: str | None) -> Measurement:
        """Return the measurement of a model."""
        return next(m for m in self.measurements if m.model == model)

    def change_of(self, model: str) -> Change:
        """Return how an adapted model differs from what it is compared with, token by token."""
        changed = self.of(model).change
        assert changed is not None  # only a base has none, and a model with another tokenizer
        return changed

    def loss_change_of(self, model: str) -> LossChange:
        """Return the change of the loss of an adapted model: of words if its tokenizer differs."""
        changed = self.of(model).change
        if changed is not None:
            return LossChange(changed.loss, "token")
        of_words = None if self.words is None else self.words.of(model).change
        return LossChange(Estimate(None) if of_words is None else of_words.decisive, "word")


@dataclass(frozen=True)
class RetrievalMeasures:
    """The measures of retrieval, or their differences; above 0, a difference is for the better.

    Attributes:
        recall_at_1: The share of queries whose own document comes first.
        recall_at_10: The share of queries whose own document is among the first ten.
        mrr: The mean of 1 / rank.
        ndcg_at_10: The mean of 1 / log2(1 + rank) where the rank is at most 10, and else of 0. By
            its difference, retrieval is better or worse.
    """

    recall_at_1: Estimate
    recall_at_10: Estimate
    mrr: Estimate
    ndcg_at_10: Estimate


@dataclass(frozen=True)
class RetrievalMeasurement:
    """How well one model finds the documents of the pool.

    Attributes:
        model: The name of the model, or `BM25`.
        change: The differences from its base, on the same queries; None for a base and for BM25.
        against_bm25: How much its nDCG at 10 is above that of BM25; None for BM25.
        anisotropy: The mean cosine of two different documents; None for BM25.
    """

    model: str
    measures: RetrievalMeasures
    change: RetrievalMeasures | None
    against_bm25: Estimate | None
    anisotropy: float | None


@dataclass(frozen=True)
class RetrievalFindings:
    """Each model, and BM25 last, finding validation documents by their titles.

    Attributes:
        num_documents: The size of the pool; each of its documents is searched for once.
        num_titles: How many queries are titles; the others are halves of their documents.
    """

    num_documents: int
    num_titles: int
    measurements: tuple[RetrievalMeasurement, ...]

    def of(self, model: str | None) -> RetrievalMeasurement:
        """Return the measurement of a model."""
        return next(m for m in self.measurements if m.model == model)

    def change_of(self, model: str) -> RetrievalMeasures:
        """Return how an adapted model differs from its base."""
        changed = self.of(model).change
        assert changed is not None  # only a base has no change
        return changed


@dataclass(frozen=True)
class ProposedWord:
    """What a model predicts for a mask.

    Attributes:
        word: The whole word that the token makes with the text around it. An ellipsis stands for a
            part that the model did not see.
        token_str: The text of the token.
        score: The probability of the token.
    """

    word: str
    token_str: str
    score: float


@dataclass(frozen=True)
class Opinion:
    """What a model predicts for one masked token.

    Attributes:
        loss: The loss of the true token in nats; None if the true token is not known.
        candidates: The five likeliest tokens, the likeliest first.
    """

    model: str
    loss: float | None
    candidates: tuple[ProposedWord, ...]


@dataclass(frozen=True)
class TokenExample:
    """A masked token of the validation text, in its sentence.

    Attributes:
        document: The id of its document within the source.
        before: The text before its word. Each other word that the models did not see, or only a
            part of, is `[MASK]`.
        word: The word that it belongs to.
        token: The text of the token within its word.
        gain: How much lower the loss of the adapted model is, in nats.
        opinions: The predictions of the base and of the adapted model.
    """

    source: str
    document: str
    before: str
    word: str
    token: str
    after: str
    gain: float
    opinions: tuple[Opinion, ...]


@dataclass(frozen=True)
class Question:
    """A sentence of `evaluation.examples`, and for each mask what each model predicts."""

    text: str
    opinions: tuple[tuple[Opinion, ...], ...]


@dataclass(frozen=True)
class Model:
    """A model of the report.

    Attributes:
        name: A short name that is unique in the report.
        base: The name of the model that it was adapted from; None for a base.
        location: The folder or the name on the hub.
        head_is_new: Whether it had no masked-LM head of its own before training.
        tokenizer: Models with the same value cut text into the same tokens.
        compared_with: The name of what its changes are relative to: its base, or token frequencies
            alone if the base had no masked-LM head; None for a base.
    """

    name: str
    base: str | None
    location: str
    head_is_new: bool
    tokenizer: str
    compared_with: str | None = None

    @property
    def is_adapted(self) -> bool:
        """Whether it is the result of a run."""
        return self.base is not None


@dataclass(frozen=True)
class Step:
    """Something to do next, with the command for it if there is one."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one run.

    Attributes:
        run: The name of the model of the run.
        label: What became of the model, by how it predicts words and how it finds documents.
        predictions: The label by how it predicts words alone.
        sentence: The verdict in a sentence, for someone who reads nothing else.
        reasons: The measurements that it is based on.
        steps: What to do next, the most useful first.
    """

    run: str
    label: Label
    predictions: Label
    sentence: str
    reasons: tuple[str, ...]
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Run:
    """How one run went. A field such as `train_results` holds the JSON file of that name.

    Attributes:
        name: The name of the model of the run.
        steps: The lines of metrics.jsonl about training steps (`step`, `epoch`, `loss`,
            `learning_rate`, `mlm_probability`, `grad_norm`, `num_tokens`, ...).
        evaluations: The lines of metrics.jsonl about evaluations (`step`, `epoch`, `eval_loss`,
            `eval_perplexity`, `eval_accuracy`, `eval_general_loss` if measured, ...).
        config: The text of config.resolved.yaml.
    """

    name: str
    path: str
    steps: tuple[dict[str, Any], ...]
    evaluations: tuple[dict[str, Any], ...]
    train_results: dict[str, Any]
    eval_results: dict[str, Any]
    corpus: dict[str, Any]
    config: str
    environment: dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """The place of one run among several.

    Attributes:
        run: The name of the model of the run.
        measure: What the runs are ordered by.
        behind: How this differs from the first, on the same masked tokens of the domain (`loss`, in
            nats per token), the same words (`word_loss`, in nats per word) or the same queries;
            None for the first, and for other tokens.
    """

    run: str
    measure: Literal["loss", "word_loss", "ndcg_at_10"]
    behind: Estimate | None

    @property
    def is_clear(self) -> bool:
        """Whether it is clearly worse than the first."""
        if self.behind is None or self.behind.interval is None:
            return False
        low, high = self.behind.interval
        return high < 0 if self.measure == "ndcg_at_10" else low > 0


@dataclass(frozen=True)
class Difference:
    """A setting that differs between runs, and its value in each run, written as YAML."""

    key: str
    values: dict[str, str]


@dataclass(frozen=True)
class ProbeRow:
    """The results of a model on a task, with one method and one number of training examples.

    Attributes:
        method: `frozen` or `finetuned`, as `probe.methods` explains.
        scores: For each of the probe's metrics, the score on the test for each seed.
        difference: The mean of the last metric minus that of the first model; None for the first.
    """

    method: Method
    num_train_examples: int
    model: str
    scores: tuple[tuple[float, ...], ...]
    difference: Estimate | None


@dataclass(frozen=True)
class Probe:
    """Models compared on a task with labels: the content of probe.json.

    Attributes:
        measured_on: What the test holds, in words.
        metrics: The metrics of the test, by their names in test_results.json; models are compared
            by the last one.
        models: The names of the models; the others are compared with the first.
        rows: The results, by method and number of training examples, then by model.
        sentences: How each of the other models differs from the first.
        notes: What the reader must know about the numbers.
        format_version: That of probe.json, which is kept apart from reports.
    """

    task: str
    num_test_examples: int
    measured_on: str
    metrics: tuple[str, ...]
    models: tuple[str, ...]
    rows: tuple[ProbeRow, ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    format_version: Literal[2] = field(kw_only=True)


@dataclass(frozen=True)
class Report:
    """A report: the content of report.json.

    Attributes:
        created_at: The time in UTC.
        models: The models, the bases first.
        notes: What the reader must know about the numbers, such as why some do not compare.
        texts: The texts, that of the domain first.
        general_is_missing: Whether there is no general text, so that forgetting was not measured.
        gained: The tokens on which the adapted model gained most; empty for several runs.
        lost: The tokens on which it lost most; empty for several runs.
        standings: The runs, the best first; empty for one run, and if they do not compare.
        differences: The settings that differ between the runs; empty for one run.
        probes: How the models compare on tasks, if that was measured.
        retrieval: How well the models find documents; None if there are too few, as `notes` say.
    """

    title: str
    created_at: str
    mlmtune_version: str
    verdicts: tuple[Verdict, ...]
    models: tuple[Model, ...]
    notes: tuple[str, ...]
    texts: tuple[Text, ...]
    general_is_missing: bool
    gained: tuple[TokenExample, ...]
    lost: tuple[TokenExample, ...]
    questions: tuple[Question, ...]
    runs: tuple[Run, ...]
    standings: tuple[Standing, ...] = ()
    differences: tuple[Difference, ...] = ()
    probes: tuple[Probe, ...] = ()
    retrieval: RetrievalFindings | None = None

    @property
    def compares_tokens(self) -> bool:
        """Whether numbers per token compare, because all models cut text into the same tokens."""
        return len({model.tokenizer for model in self.models}) == 1

    @property
    def bases_without_head(self) -> tuple[str, ...]:
        """The names of the bases that had no masked-LM head, and therefore nothing to forget."""
        return tuple(m.name for m in self.models if m.head_is_new and not m.is_adapted)

    def role_of(self, name: str) -> str:
        """Return what the table shows for a model without a change of its own."""
        if any(model.name == name and model.is_adapted for model in self.models):
            return "other tokens"
        if name in self.bases_without_head:
            return "new head"
        return "base" if name in {model.base for model in self.models} else "compared with"

    def to_json(self) -> dict[str, Any]:
        """Return the content of report.json, with the version of its format."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}
