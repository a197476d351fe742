"""Masked language modelling as a task: text, masks, perplexity."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from mlmtune.config import PHASES, BestBy, Config, PhaseConfig, RateSchedule, has_pairs
from mlmtune.console import Console
from mlmtune.corpus.funnel import remarks
from mlmtune.evaluation.fill_mask import fill_mask
from mlmtune.evaluation.perplexity import Evaluation, criterion_of
from mlmtune.evaluation.retrieval import Retrieval, RetrievalProbe, change_interval
from mlmtune.masking.collator import MaskedBatch, MaskingCollator
from mlmtune.masking.selection import highest_mlm_probability, mlm_probability_at
from mlmtune.modeling.device import precision_of
from mlmtune.modeling.loading import LoadedModel
from mlmtune.modeling.losses import FILL, LOSS, Losses
from mlmtune.modeling.masked_head import PAIR_ACCURACY, PAIR_LABEL_SHARE, PAIR_LOSS
from mlmtune.modeling.output_layer import logits_at_once
from mlmtune.numbers import nats, perplexity, share
from mlmtune.printable import counted
from mlmtune.sharing.card import Card
from mlmtune.sharing.masked_lm_card import example_text, fill_mask_snippet, masked_lm_card
from mlmtune.shell import own_command
from mlmtune.tokens.pair_windows import PairView
from mlmtune.tokens.pairs import PairSequences
from mlmtune.tokens.sequences import ChunkSequences, Sequences
from mlmtune.tokens.splits import PhaseText
from mlmtune.tokens.summary import summarize
from mlmtune.training import caveats
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.lineage import Ancestor, lineage_of, num_steps_before, to_json
from mlmtune.training.outcome import loss_fell
from mlmtune.training.phase_table import phase_table
from mlmtune.training.plan import Phase, Plan
from mlmtune.training.run_dir import RunDir
from mlmtune.training.setup import (
    ModelAndText,
    check_is_known,
    has_padding,
    load_model_and_text,
    longest_chunk,
)
from mlmtune.training.stream import TrainingStream, seed_after, seed_of_phase
from mlmtune.training.task import Task, with_choices

GENERAL = ("general_loss", "general_perplexity", "general_accuracy", "general_accuracy_top5")
"""The results on general text that eval_results.json has both before and after training."""


RETRIEVAL = tuple(f"retrieval_{name}" for name in (*Retrieval.MEASURES, "anisotropy"))
"""The results of retrieval that it has both before and after training."""


@dataclass(frozen=True)
class MaskedSequences:
    """Sequences that are masked again in each epoch: what a masked language model is trained on.

    Attributes:
        lay_out: Lays them out for the model; see `MaskedHead.packed`.
        rate: `masking.mlm_probability` of the phase.
        num_steps: The steps of the phase, over which a scheduled rate changes.
    """

    unmasked: Sequences
    collator: MaskingCollator
    lay_out: Callable[[MaskedBatch], MaskedBatch]
    rate: float | RateSchedule
    num_steps: int

    def __len__(self) -> int:
        return len(self.unmasked)

    def mlm_probability(self, step: int) -> float:
        """Return the masking rate of a step, counted from 0 at the beginning of the phase."""
        return mlm_probability_at(step, self.num_steps, self.rate)

    def batch(
        self, step: int, epochs: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> MaskedBatch:
        chunks, keys = self.unmasked.batch(epochs, positions)
        return self.lay_out(self.collator(chunks, keys, self.mlm_probability(step)))

    def num_tokens(self, epochs: NDArray[np.int64], positions: NDArray[np.int64]) -> int:
        return self.unmasked.num_tokens(epochs, positions)


@dataclass(frozen=True)
class MaskedLM(Task):
    """The task of `mlmtune train`.

    Attributes:
        setup: The model, the text and the evaluators.
        sequences: The training sequences of each phase, before and after masking.
        retrieval_probe: Measures retrieval at each evaluation; None unless the config asks for it.
    """

    config: Config
    setup: ModelAndText
    loaded: LoadedModel
    plan: Plan
    stream: TrainingStream[MaskedBatch]
    sequences: tuple[MaskedSequences, ...]
    retrieval_probe: RetrievalProbe | None = None
    lineage: tuple[Ancestor, ...] = ()

    measures_before: ClassVar[bool] = True
    num_targets_name: ClassVar[str] = "num_masked_tokens"
    length_key: ClassVar[str] = "chunking.chunk_length"

    def losses(self, model: Any, batch: MaskedBatch) -> Losses:
        losses = self.setup.head.losses(model, batch)
        if has_padding(self.config):
            num_tokens = losses.terms[LOSS].new_tensor(batch.num_tokens)
            return replace(losses, tallies=losses.tallies | {FILL: num_tokens})
        return losses

    def num_targets(self, batch: MaskedBatch) -> dict[str, int]:
        num_targets = {LOSS: batch.num_masked_tokens}
        if has_padding(self.config):
            num_targets[FILL] = batch.input_ids.numel()
        if batch.pair_labels is not None:
            of_pairs = (PAIR_LOSS, PAIR_ACCURACY, PAIR_LABEL_SHARE)
            num_targets |= dict.fromkeys(of_pairs, len(batch.pair_labels))
        return num_targets

    @property
    def why_not_compilable(self) -> str | None:
        if self.config.chunking.mode == "per_document" or has_pairs(self.config.objective):
            return (
                "a compiled model needs sequences of one length; set it to false, or "
                "chunking.mode: concatenate and objective: mlm"
            )
        return None

    def memory_shape(self, micro_batch_size: int, device: torch.device) -> tuple[int, int]:
        _, length = longest_chunk(self.config)
        vocab_size = self.loaded.model.get_input_embeddings().num_embeddings
        rate = 1.0
        if self.setup.head.is_sparse:  # only masked positions have logits
            rate = max(highest_mlm_probability(sequences.rate) for sequences in self.sequences)
        num_logits = round(micro_batch_size * length * rate) * vocab_size
        if self.setup.head.output_layer is not None:
            num_logits = min(num_logits, max(logits_at_once(device), vocab_size))
        return length, num_logits

    def evaluate(
        self, accelerator: Accelerator, model: Any, should_stop: Callable[[], bool]
    ) -> Evaluation | None:
        """Measure perplexity, on general text and retrieval, too, if the config says so."""
        setup, evaluations = self.setup, []
        for evaluator in filter(None, (setup.evaluator, setup.general_evaluator)):
            evaluation = evaluator.run(accelerator, model, setup.head, should_stop=should_stop)
            if evaluation is None:
                return None
            evaluations.append(evaluation)
        retrieval = None
        if self.retrieval_probe is not None:
            retrieval = self.retrieval_probe.run(accelerator, model, should_stop)
            if retrieval is None:
                return None
        return replace(
            evaluations[0],
            general=evaluations[1] if len(evaluations) > 1 else None,
            retrieval=retrieval,
            best_by=self.config.checkpoint.best_by,
        )

    def reason_to_stop(self, state: TrainState) -> str | None:
        """Say that general text has lost more than `evaluation.max_forgetting`."""
        limit = self.config.evaluation.max_forgetting
        if limit is None or str(state.step) not in state.evaluations:
            return None
        lost = forgetting(state, state.step)
        if lost <= limit:
            return None
        reason = (
            f"general text has lost {lost:.3f} nats per token, more than "
            f"evaluation.max_forgetting: {limit}; stopping"
        )
        if state.best_step is None:
            reason += (
                "\nthere was no evaluation before that, so model/ is what has forgotten; evaluate "
                "more often (evaluation.every), lower optimizer.learning_rate, or mix in general "
                "text (replay)"
            )
        return reason

    def results(self, state: TrainState, step: int) -> dict[str, Any]:
        before, after = state.evaluation_before, state.evaluations[str(step)]
        assert before is not None
        return {
            "perplexity_before": before["perplexity"],
            "perplexity_before_interval": before["perplexity_interval"],
            **after,
            "loss_before": before["loss"],
            "accuracy_before": before["accuracy"],
            "accuracy_top5_before": before["accuracy_top5"],
            **{
                f"{name}_before": before[name]
                for name in ("pair_loss", "pair_accuracy", *GENERAL, *RETRIEVAL)
                if name in after
            },
            "step": step,
            "model_head_was_new": self.loaded.head_is_new,
            **self._compared_with_base(state, step),
            **self._judged_by(state, step),
        }

    def _compared_with_base(self, state: TrainState, step: int) -> dict[str, Any]:
        before, after = state.evaluation_before, state.evaluations[str(step)]
        assert before is not None
        worse = self.worse_than_base(state, step)
        compared: dict[str, Any] = {"worse_than_base": "perplexity" in worse}
        if self.retrieval_probe is not None:
            compared["retrieval_worse_than_base"] = "retrieval" in worse
            compared["retrieval_ndcg_at_10_change_interval"] = change_interval(before, after)
        return compared

    def worse_than_base(self, state: TrainState, step: int) -> list[str]:
        """Name perplexity if the loss rose, but not with a new head, and retrieval if it fell."""
        before, after = state.evaluation_before, state.evaluations[str(step)]
        assert before is not None
        names: tuple[BestBy, ...] = ("perplexity",) if not self.loaded.head_is_new else ()
        if self.retrieval_probe is not None:
            names += ("retrieval",)
        return [n for n in names if criterion_of(after, n) > criterion_of(before, n)]

    def _judged_by(self, state: TrainState, step: int) -> dict[str, Any]:
        """Return forgetting, or the unigram baseline of a new head, which had nothing to forget."""
        if not self.loaded.head_is_new:
            has_general = self.setup.general_evaluator is not None
            return {"forgetting": forgetting(state, step)} if has_general else {}
        loss, accuracy = self.setup.token_frequencies().measure(self.setup.evaluator.masks)
        losses = [evaluation["loss"] for evaluation in state.evaluations.values()]
        return {
            "token_frequency_loss": loss,
            "token_frequency_accuracy": accuracy,
            "loss_fell": loss_fell(losses),
        }

    def identity(self) -> dict[str, Any]:
        config = self.config
        return {
            "corpus": {
                "fingerprint": self.setup.store.fingerprint,
                **config.corpus.model_dump(
                    include={"validation_fraction", "split_by", "split_seed", "max_train_chunks",
                             "max_validation_chunks"}
                ),
                "marks": self.setup.splits.marks,
            },
            "vocabulary": self._identity_of_vocabulary(),
            "chunking": config.chunking.model_dump(),
            **self._identity_of_phases(),
            "objective": config.objective,
            "evaluation": config.evaluation.model_dump(
                include={"seed", "strategy", "mlm_probability", "mask_draws", "max_chunks",
                         "general", "retrieval"}
            ),
            "checkpoint": config.checkpoint.model_dump(include={"best_by"}),
        }  # fmt: skip

    def _identity_of_vocabulary(self) -> dict[str, Any]:
        """Return the section, and which words it came to, which the text may decide."""
        settings = self.config.vocabulary
        words = self.setup.store.made_of["tokenizer"] if settings.is_used else None
        return {**settings.model_dump(), "tokenizer (with the words that were added)": words}

    def _identity_of_phases(self) -> dict[str, Any]:
        """Return what a phase may change, once for each phase, or else for the run."""
        config = self.config
        if not config.phases:
            return {
                "corpus.sources": {
                    "weight": [source.weight for source in config.corpus.sources],
                    "replay": [source.replay for source in config.corpus.sources],
                },
                "masking": config.masking.model_dump(),
                PHASES: [],
            }
        return {
            PHASES: [phase.name for phase in config.phases],
            **{
                f"{PHASES}.{phase.name}": {
                    "num_steps (or as many as its epochs or tokens take)": planned.num_steps,
                    "reset_optimizer": phase.reset_optimizer,
                    "weights": [source.weight for source in settings.corpus.sources],
                    "replay": [source.replay for source in settings.corpus.sources],
                    "chunk_length": settings.chunking.chunk_length,
                    "global_batch_size": planned.global_batch_size,
                    **settings.masking.model_dump(),
                    **settings.optimizer.model_dump(),
                }
                for phase, settings, planned in zip(
                    config.phases, config.by_phase, self.plan.phases, strict=True
                )
            },
        }

    @property
    def data_seen(self) -> tuple[str, int]:
        return self.setup.store.fingerprint, len(self.setup.splits.train)

    def write_records(self, run: RunDir) -> None:
        setup, split_seed = self.setup, self.config.corpus.split_seed
        summary = summarize(
            setup.store, setup.splits, self.loaded.tokenizer, split_seed, setup.added_words
        )
        run.write_json("corpus.json", summary)
        if self.lineage:
            run.write_json("lineage.json", {"ancestors": to_json(self.lineage)})

    def card(
        self, folder: Path, results: dict[str, Any], records: Mapping[str, Any], name: str
    ) -> Card:
        mask = str(self.loaded.tokenizer.mask_token)
        text = example_text(self.config.evaluation.examples, mask)
        return masked_lm_card(name, self.config, results, records, fill_mask_snippet(folder, text))

    def caveats(self) -> Iterator[str]:
        general = self.setup.general_evaluator
        general_masks = None if general is None else general.masks
        masks = self.setup.evaluator.masks
        return caveats.of_masked_lm(self.config, self.plan, self.setup.splits, masks, general_masks)

    def announce(self, state: TrainState, run: RunDir) -> Iterator[str]:
        """Yield lines on new heads, text that was left out, and training pairs."""
        name = self.config.model.name_or_path
        if self.loaded.head_is_new and state.step == 0:
            yield (
                f"{name} has no masked-LM head; it gets a new one that starts from token "
                "frequencies, so the perplexity before training says little"
            )
        if self.loaded.sentence_encoder is not None and state.step == 0:
            yield (
                f"{name} is a sentence encoder, and masked language modelling makes its embeddings "
                "worse at search while it learns to predict the text; afterwards merge the result "
                "with it (mlmtune merge) or train it by a contrastive step (replay does not help)"
            )
        if self.loaded.pair_head_is_new and state.step == 0:
            yield f"{name} has no head for pairs; it gets a new one, which guesses at first"
        for kind in ("files", "documents"):
            left_out = self.setup.store.funnel[kind]["left_out"]
            if left_out:
                reasons = ", ".join(f"{reason} {count:,}" for reason, count in left_out.items())
                yield f"{kind} left out: {reasons}; see {run.path / 'corpus.json'}"
        yield from remarks(self.setup.store.funnel)
        yield from phase_table(self.config, self.plan)
        for phase, sequences in zip(self.plan.phases, self.sequences, strict=True):
            if isinstance(sequences.unmasked, PairSequences):
                of_phase = f" of phase {phase.name}" if phase.name else ""
                yield f"training pairs{of_phase}: {sequences.unmasked.describe()}"

    def sizes(self) -> str:
        splits = self.setup.splits
        return (
            f"{len(splits.train):,} training and "
            f"{counted(len(splits.validation), 'validation chunk')} of "
            f"{self.config.chunking.chunk_length}"
        )

    def describe_means(self, means: Mapping[str, float]) -> str:
        in_words = {PAIR_LOSS, PAIR_ACCURACY, PAIR_LABEL_SHARE, FILL}
        terms = {name: mean for name, mean in means.items() if name not in in_words}
        parts = [super().describe_means(terms)]
        if PAIR_ACCURACY in means:
            parts.append(
                f"{share(means[PAIR_ACCURACY])} of pairs correct "
                f"({share(means[PAIR_LABEL_SHARE])} do not belong together)"
            )
        if FILL in means:
            parts.append(f"fill {share(means[FILL])}")
        return "  ".join(parts)

    def metrics(self, step: int) -> dict[str, float]:
        phase, number = self.plan.locate(step)
        return {"mlm_probability": self.sequences[phase].mlm_probability(number)}

    def fill_examples(self, model: Any) -> dict[str, Any]:
        # A compiled model would be compiled again for each sentence, because lengths differ.
        is_compiled = self.config.training.compile
        with torch.compiler.set_stance("force_eager") if is_compiled else nullcontext():
            return {
                text: [[asdict(prediction) for prediction in mask] for mask in
                       fill_mask(model, self.loaded.tokenizer, text)]
                for text in self.config.evaluation.examples
            }  # fmt: skip

    def summary(self, results: dict[str, Any]) -> Iterator[str]:
        before, after = results["eval_perplexity_before"], results["eval_perplexity"]
        interval, draws = results["eval_perplexity_interval"], results["eval_num_mask_draws"]
        masked = counted(results["eval_num_masked_tokens"], "masked token")
        yield (
            f"perplexity {perplexity(before)} before, {perplexity(after)} after"
            + (f" (95 % interval {' to '.join(map(perplexity, interval))})" if interval else "")
            + f", on {masked} of validation text"
            + (f" ({draws} draws of masks)" if draws > 1 else "")
        )
        if self.setup.added_words:
            yield (
                "before is the base with the added words, whose rows were not trained yet; "
                "mlmtune report compares with the base itself, by whole words"
            )
        if "eval_token_frequency_loss" in results:
            yield (
                f"{share(results['eval_accuracy'])} of them right; token frequencies alone: "
                f"{share(results['eval_token_frequency_accuracy'])}, perplexity "
                f"{perplexity(math.exp(results['eval_token_frequency_loss']))}"
            )
        if "eval_pair_accuracy" in results:
            yield (
                f"pairs classified correctly: {share(results['eval_pair_accuracy_before'])} "
                f"before, {share(results['eval_pair_accuracy'])} after, of "
                f"{results['eval_num_pairs']:,} "
                f"({share(results['eval_pair_label_share'])} do not belong together)"
            )
        if "eval_forgetting" in results:
            yield (
                f"general text: perplexity {perplexity(results['eval_general_perplexity_before'])} "
                f"before, {perplexity(results['eval_general_perplexity'])} after "
                f"({nats(results['eval_forgetting'])} nats per token)"
            )
        elif "eval_general_perplexity" in results:
            yield (
                f"general text: perplexity {perplexity(results['eval_general_perplexity'])} after; "
                "with a new head there was nothing to forget"
            )

        if "eval_retrieval_recall_at_1" in results:
            yield (
                f"retrieval: of {counted(results['eval_retrieval_num_documents'], 'document')}, "
                f"{share(results['eval_retrieval_recall_at_1_before'])} came first for their own "
                f"query before, {share(results['eval_retrieval_recall_at_1'])} after"
            )

    def examples(self, before: dict[str, Any], model: Any) -> Iterator[str]:
        for text, after in self.fill_examples(model).items():
            yield text
            for label, masks in (("before", before.get(text)), ("after", after)):
                if masks is None:  # a resumed run may have examples that the base was not asked for
                    continue
                words = " / ".join(", ".join(p["token_str"] for p in mask) for mask in masks)
                yield f"  {label + ':':8}{words}"

    def how_to_try(self, run: RunDir) -> str:
        return own_command("fill", "--model", run.model, "your text with a [MASK]")


def forgetting(state: TrainState, step: int) -> float:
    """Return how much the loss on general text rose by an evaluated step, in nats per token."""
    assert state.evaluation_before is not None
    before: float = state.evaluation_before["general_loss"]
    return float(state.evaluations[str(step)]["general_loss"] - before)


def build_masked_lm(config: Config, accelerator: Accelerator, console: Console) -> MaskedLM:
    """Load model and corpus, and plan the run on them.

    Raises:
        MlmtuneError: Anything that keeps the run from starting.
    """
    lineage = lineage_of(config)
    setup = load_model_and_text(
        config, accelerator.device, precision_of(accelerator), console, extends_vocabulary=True
    )
    check_is_known(setup, config)
    loaded, splits = setup.loaded, setup.splits
    by_phase = config.by_phase
    given: list[PhaseConfig | None] = [*config.phases] or [None]
    plan = Plan.of(
        [
            _phase_of(settings, text, phase)
            for settings, text, phase in zip(by_phase, splits.phases, given, strict=True)
        ],
        config.training,
        num_processes=accelerator.num_processes,
    )
    # A run that goes on from another must not see the text in the same order with the same masks.
    seed = seed_after(config.run.seed, num_steps_before(lineage))
    sequences = tuple(
        _sequences(settings, text, setup, phase, seed_of_phase(seed, index))
        for index, (settings, text, phase) in enumerate(
            zip(by_phase, splits.phases, plan.phases, strict=True)
        )
    )
    stream = TrainingStream(sequences, plan, seed=seed, process_index=accelerator.process_index)
    decided = with_choices(config, accelerator, loaded, plan)
    probe = None
    if config.evaluation.retrieval:
        probe = RetrievalProbe.of(splits, loaded, config.corpus, config.evaluation)
    return MaskedLM(decided, setup, loaded, plan, stream, sequences, probe, lineage)


def _phase_of(settings: Config, text: PhaseText, given: PhaseConfig | None) -> Phase:
    """Return the length and the batches of a phase, which trains on a text.

    `settings` is its config (`Config.by_phase`), and `given` the phase as the run's config has it.

    Raises:
        ConfigError: Its warmup is longer than it is.
    """
    mixture = text.mixture
    return Phase.of(
        settings.training,
        settings.optimizer,
        num_chunks=len(mixture),
        num_tokens=mixture.num_tokens,
        name=given.name if given else "",
        resets_optimizer=given is not None and given.reset_optimizer,
    )


def _sequences(
    settings: Config, text: PhaseText, setup: ModelAndText, phase: Phase, seed: int
) -> MaskedSequences:
    """Return what a phase trains on, in an order and with masks that `seed` draws."""
    loaded = setup.loaded
    unmasked: Sequences
    if isinstance(text.view, PairView):
        unmasked = PairSequences(text.view, text.mixture, settings.objective, seed)
    else:
        unmasked = ChunkSequences(text.view, text.mixture, seed)
    collator = MaskingCollator(
        loaded.tokenizer,
        settings.masking,
        with_token_type_ids=loaded.has_token_types,
        is_for_compiled_model=settings.training.compile,
    )
    rate = settings.masking.mlm_probability
    return MaskedSequences(unmasked, collator, setup.head.packed, rate, phase.num_steps)
