"""What a report found: the content of report.json, which report.html and report.md show.

Every number that is shown is here; whoever wants to draw or decide something else reads the JSON.
Losses are in nats per token, shares lie between 0 and 1, intervals hold 95 %.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlmtune.evaluation.known_text import compares
from mlmtune.training.outcome import Label

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: None where it does not fit a float.
        interval: of 95 %; None where there is too little text for one, or a bound does not fit.
    """

    value: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Change:
    """An adapted model against its base: after minus before, on the same masked tokens.

    Where the base had no masked-LM head of its own, it is against token frequencies alone.

    Attributes:
        loss: in nats per token; below 0 the adapted model is better.
        accuracy: of the likeliest token; above 0 it is better.
        accuracy_top5: of the five likeliest.
    """

    loss: Estimate
    accuracy: Estimate
    accuracy_top5: Estimate


@dataclass(frozen=True)
class Measurement:
    """One model on one text.

    Attributes:
        model: name of the model.
        num_masked_tokens: how many tokens it was asked for; one that several draws of the masks
            asked for counts once.
        num_predictions: how many masked tokens the numbers are means of, over all draws.
        loss: nats per masked token.
        perplexity: exp(loss): a token.
        perplexity_per_word: per word of the text that the tokenizer knows, whatever pieces it cuts
            the word into; None for a part of a text.
        perplexity_per_byte: per byte (UTF-8) of the text that the tokenizer knows; None for a part
            of a text.
        accuracy: share of the masked tokens whose likeliest prediction is right.
        accuracy_top5: share of them that are among the five likeliest.
        change: against what the model is compared with; None for a base.
        unknown_token_share: share of the text's tokens that the tokenizer does not know, which are
            not measured; None for a part of a text.
        unknown_byte_share: share of the text's bytes that stand under them; None for a part of a
            text.
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
    """Some of a text's masked tokens: those of one source, or of words of one kind.

    Attributes:
        name: for people.
        measurements: one for each model, in the report's order.
    """

    name: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class Text:
    """A text that all models were measured on.

    Attributes:
        name: for people.
        kind: `domain` is the validation text of the run, `general` is `evaluation.general`.
        num_documents: documents that chunks were evaluated of.
        num_chunks: chunks that were evaluated; of the first model's tokenizer.
        num_mask_draws: how many times each of them was masked.
        interval_unit: what the intervals resample; chunks where documents are too few.
        measurements: one for each model, in the report's order.
        sources: the same by source, where there is more than one.
        specificity: the same by how domain-specific the masked word is, most specific first; empty
            for general text, or where there is none to compare with.
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

    @property
    def compares_bytes(self) -> bool:
        """Whether numbers per word and per byte compare: all models know as much of the text."""
        return compares(m.unknown_byte_share or 0.0 for m in self.measurements)


@dataclass(frozen=True)
class ProposedToken:
    """One token that a model proposes.

    Attributes:
        token_str: its text.
        score: its probability.
    """

    token_str: str
    score: float


@dataclass(frozen=True)
class Opinion:
    """What a model proposes for one masked token.

    Attributes:
        model: name of the model.
        loss: nats of the true token; None where the truth is not known.
        candidates: the five likeliest, the likeliest first.
    """

    model: str
    loss: float | None
    candidates: tuple[ProposedToken, ...]


@dataclass(frozen=True)
class TokenExample:
    """A masked token of the validation text, in its sentence.

    Attributes:
        source: name of its source.
        document: id of its document within the source.
        before: text before it, as the models saw it (with other masks in it).
        token: what stood there.
        after: text after it.
        gain: nats that the adapted model is better by.
        opinions: of the base and of the adapted model.
    """

    source: str
    document: str
    before: str
    token: str
    after: str
    gain: float
    opinions: tuple[Opinion, ...]


@dataclass(frozen=True)
class Question:
    """A sentence of `evaluation.examples`, filled in by every model.

    Attributes:
        text: the sentence with its masks.
        opinions: for each mask, what each model proposes.
    """

    text: str
    opinions: tuple[tuple[Opinion, ...], ...]


@dataclass(frozen=True)
class Model:
    """A model of the report.

    Attributes:
        name: for people; unique in the report.
        base: name of the model that it was adapted from; None for a base.
        location: the folder or the hub's name.
        head_is_new: it had no masked-LM head of its own before training.
        tokenizer: models with the same one cut text into the same tokens.
        compared_with: name of what its changes are against: its base, or token frequencies alone
            where that had no masked-LM head; None for a base.
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
class Verdict:
    """What comes of it, for one run.

    Attributes:
        run: name of the run's model.
        label: in a word or three.
        sentence: the verdict for someone who reads nothing else.
        reasons: what it rests on.
        suggestions: what to try next; empty where there is nothing to fix.
    """

    run: str
    label: Label
    sentence: str
    reasons: tuple[str, ...]
    suggestions: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """How one run went.

    Attributes:
        name: name of the run's model.
        path: its directory.
        steps: metrics.jsonl's lines of training steps (`step`, `epoch`, `loss`, `learning_rate`,
            `mlm_probability`, `grad_norm`, `num_tokens`, `tokens_per_second`, ...).
        evaluations: metrics.jsonl's lines of evaluations (`step`, `epoch`, `eval_loss`,
            `eval_perplexity`, `eval_accuracy`, `eval_general_loss` where it was measured, ...).
        train_results: train_results.json.
        eval_results: eval_results.json.
        corpus: corpus.json.
        config: config.resolved.yaml.
        environment: environment.json.
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
class Difference:
    """A setting that is not the same in all runs.

    Attributes:
        key: dotted.
        values: by run, as in YAML.
    """

    key: str
    values: dict[str, str]


@dataclass(frozen=True)
class ProbeRow:
    """A model on a task, by one method, with so many training examples.

    Attributes:
        method: `frozen` or `finetuned`, as `probe.methods` explains.
        num_train_examples: how many it was fitted to.
        model: its name.
        accuracies: on the test, by seed.
        macro_f1s: on the test, by seed.
        difference: mean macro-F1 minus that of the first model; None for the first.
    """

    method: Literal["frozen", "finetuned"]
    num_train_examples: int
    model: str
    accuracies: tuple[float, ...]
    macro_f1s: tuple[float, ...]
    difference: Estimate | None

    @property
    def method_name(self) -> str:
        """For people."""
        return "frozen" if self.method == "frozen" else "fine-tuned"

    @property
    def setting(self) -> str:
        """What the models were set side by side in, for people."""
        return f"{self.method_name} on {self.num_train_examples:,}"


@dataclass(frozen=True)
class Probe:
    """Models side by side on a classification task: the content of probe.json.

    Attributes:
        task: its name.
        num_test_examples: what all were measured on.
        labels: of the task.
        models: the first is what the others are compared with.
        rows: by method and number of training examples, then by model.
        sentences: what the rows show of each model but the first.
        notes: what the reader must know about the numbers.
    """

    task: str
    num_test_examples: int
    labels: tuple[str, ...]
    models: tuple[str, ...]
    rows: tuple[ProbeRow, ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """probe.json."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Attributes:
        title: for people.
        created_at: when, in UTC.
        mlmtune_version: by what.
        verdicts: one for each run.
        models: bases first.
        notes: what the reader must know about the numbers, such as why some do not compare.
        texts: the domain's first.
        general_is_missing: there is no general text, so forgetting was not measured.
        gained: where the adapted model gained most; of one run only.
        lost: where it lost most.
        questions: the user's own sentences.
        runs: how they went.
        differences: between their configs; empty for one run.
        probes: what the models are worth on tasks, if that was measured.
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
    differences: tuple[Difference, ...] = ()
    probes: tuple[Probe, ...] = ()

    @property
    def compares_tokens(self) -> bool:
        """Whether numbers per token compare: all models cut text into the same tokens."""
        return len({model.tokenizer for model in self.models}) == 1

    @property
    def bases_without_head(self) -> tuple[str, ...]:
        """Names of the bases that had no masked-LM head, and so nothing to forget."""
        return tuple(m.name for m in self.models if m.head_is_new and not m.is_adapted)

    def role_of(self, name: str) -> str:
        """What a model is that has no change of its own."""
        if name in self.bases_without_head:
            return "new head"
        return "base" if name in {model.base for model in self.models} else "compared with"

    def to_json(self) -> dict[str, Any]:
        """report.json."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}
