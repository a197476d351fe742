"""Masked language modelling as a task: text, masks, perplexity.

`mlmtune check` stops at `build_masked_lm` and shows what it got; `train` goes on.
"""

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

from mlmtune.config import Config, RateSchedule, has_pairs
from mlmtune.console import Console
from mlmtune.corpus.funnel import remarks
from mlmtune.evaluation.fill_mask import ANY_MASK, fill_mask
from mlmtune.evaluation.frequencies import TokenFrequencies
from mlmtune.evaluation.perplexity import Evaluation
from mlmtune.masking.collator import MaskedBatch, MaskingCollator
from mlmtune.masking.selection import highest_mlm_probability, mlm_probability_at
from mlmtune.modeling.device import precision_of
from mlmtune.modeling.losses import LOSS, Losses
from mlmtune.modeling.masked_head import PAIR_ACCURACY, PAIR_LABEL_SHARE, PAIR_LOSS
from mlmtune.numbers import nats, perplexity, share
from mlmtune.printable import counted
from mlmtune.sharing.card import Card
from mlmtune.sharing.masked_lm_card import fill_mask_snippet, masked_lm_card
from mlmtune.shell import own_command
from mlmtune.tokens.mixing import Mixture
from mlmtune.tokens.pairs import PairSequences
from mlmtune.tokens.sequences import ChunkSequences, Sequences
from mlmtune.tokens.summary import summarize as summarize_corpus
from mlmtune.tokens.unknown import unknown_token_id
from mlmtune.training import caveats
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.optimization import check_warmup
from mlmtune.training.outcome import loss_fell
from mlmtune.training.plan import Plan
from mlmtune.training.run_dir import RunDir
from mlmtune.training.setup import Measurable, build_measurable, check_is_known
from mlmtune.training.stream import TrainingStream
from mlmtune.training.task import Task, with_choices

GENERAL = ("general_loss", "general_perplexity", "general_accuracy", "general_accuracy_top5")
"""What eval_results.json has of general text both before and after."""


class MaskedSequences:
    """Sequences, each masked anew by its key: a stream's source.

    Args:
        sequences: what stands at each place of each epoch.
        collator: masks it.
        mlm_probability: `masking.mlm_probability`, a rate or how it moves.
        max_steps: of the run, over which it moves.
    """

    def __init__(
        self,
        sequences: Sequences,
        collator: MaskingCollator,
        mlm_probability: float | RateSchedule,
        max_steps: int,
    ) -> None:
        self._sequences = sequences
        self._collator = collator
        self._mlm_probability = mlm_probability
        self._max_steps = max_steps

    def __len__(self) -> int:
        return len(self._sequences)

    def mlm_probability(self, step: int) -> float:
        """The masking rate of a step, counted from 0."""
        return mlm_probability_at(step, self._max_steps, self._mlm_probability)

    def batch(self, step: int, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> MaskedBatch:
        """The sequences at some places, masked at the rate of the step."""
        return self._collator(*self._sequences.batch(epochs, places), self.mlm_probability(step))

    def num_tokens(self, epochs: NDArray[np.int64], places: NDArray[np.int64]) -> int:
        """Tokens of the sequences at some places, padding left out."""
        return self._sequences.num_tokens(epochs, places)


@dataclass(frozen=True)
class MaskedLM(Measurable, Task):
    """The task of `mlmtune train`.

    Attributes:
        sequences: what is trained on, before it is masked.
        source: the same, masked.
    """

    config: Config
    plan: Plan
    stream: TrainingStream[MaskedBatch]
    sequences: Sequences
    source: MaskedSequences

    measures_before: ClassVar[bool] = True
    num_targets_name: ClassVar[str] = "num_masked_tokens"
    length_key: ClassVar[str] = "chunking.chunk_length"

    def losses(self, model: Any, batch: MaskedBatch) -> Losses:
        """Of the masked tokens, and of the pairs where there are some."""
        return self.head.losses(model, batch)

    def num_targets(self, batch: MaskedBatch) -> dict[str, int]:
        """The masked tokens, and the pairs where there are some."""
        num_targets = {LOSS: batch.num_masked_tokens}
        if batch.pair_labels is not None:
            of_pairs = (PAIR_LOSS, PAIR_ACCURACY, PAIR_LABEL_SHARE)
            num_targets |= dict.fromkeys(of_pairs, len(batch.pair_labels))
        return num_targets

    @property
    def why_not_compilable(self) -> str | None:
        """Chunks of a stream are of one length; those of documents, and pairs, are not."""
        if self.config.chunking.mode == "per_document" or has_pairs(self.config.objective):
            return (
                "a compiled model needs sequences of one length; set it to false, or "
                "chunking.mode: concatenate and objective: mlm"
            )
        return None

    def memory_shape(self, micro_batch_size: int) -> tuple[int, int]:
        """The chunk length, and the logits over the vocabulary."""
        length = self.config.chunking.chunk_length
        positions = micro_batch_size * length
        if self.head.is_sparse:
            positions = round(
                positions * highest_mlm_probability(self.config.masking.mlm_probability)
            )
        return length, positions * len(self.loaded.tokenizer)

    def evaluate(
        self, accelerator: Accelerator, model: Any, should_stop: Callable[[], bool]
    ) -> Evaluation | None:
        """Perplexity on validation text, and on general text where there is some."""
        measured = []
        for evaluator in filter(None, (self.evaluator, self.general_evaluator)):
            evaluation = evaluator.run(accelerator, model, self.head, should_stop=should_stop)
            if evaluation is None:
                return None
            measured.append(evaluation)
        return replace(measured[0], general=measured[1] if len(measured) > 1 else None)

    def reason_to_stop(self, state: TrainState) -> str | None:
        """Whether the evaluation of the current step, if there was one, has lost too much."""
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
        """Perplexity before and after, and what else was measured."""
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
                for name in ("pair_loss", "pair_accuracy", *GENERAL)
                if name in after
            },
            "step": step,
            "model_head_was_new": self.loaded.head_is_new,
            "worse_than_base": self.is_worse_than_base(state, step),
            # A new head knew nothing before that could be forgotten.
            **(self._of_new_head(state) if self.loaded.head_is_new else self._lost(state, step)),
        }

    def is_worse_than_base(self, state: TrainState, step: int) -> bool:
        """By the loss on the domain's text; a base without a head is not compared with."""
        assert state.evaluation_before is not None
        rose = state.evaluations[str(step)]["loss"] > state.evaluation_before["loss"]
        return bool(rose) and not self.loaded.head_is_new

    def _lost(self, state: TrainState, step: int) -> dict[str, Any]:
        """What was forgotten, where there is general text."""
        if self.general_evaluator is None:
            return {}
        return {"forgetting": forgetting(state, step)}

    def _of_new_head(self, state: TrainState) -> dict[str, Any]:
        """What it is judged by: what token frequencies alone predict, and whether its loss fell."""
        vocabulary_size = self.loaded.model.get_input_embeddings().num_embeddings
        counts = self.splits.train.token_counts(vocabulary_size)
        frequencies = TokenFrequencies.of(counts, unknown_token_id(self.loaded.tokenizer))
        loss, accuracy = frequencies.measure(self.evaluator.masks)
        losses = [evaluation["loss"] for evaluation in state.evaluations.values()]
        return {
            "token_frequency_loss": loss,
            "token_frequency_accuracy": accuracy,
            "loss_fell": loss_fell(losses),
        }

    def identity(self) -> dict[str, Any]:
        """The text and its split, how it is cut and masked, and what it is measured by."""
        config = self.config
        return {
            "corpus": {
                "fingerprint": self.store.fingerprint,
                **config.corpus.model_dump(
                    include={"validation_fraction", "split_by", "split_seed", "max_train_chunks",
                             "max_validation_chunks"}
                ),
                "weights": [source.weight for source in config.corpus.sources],
                "replay": [source.replay for source in config.corpus.sources],
                "marks": self.splits.marks,
            },
            "chunking": config.chunking.model_dump(),
            "masking": config.masking.model_dump(),
            "objective": config.objective,
            "evaluation": config.evaluation.model_dump(
                include={"seed", "strategy", "mlm_probability", "mask_draws", "max_chunks",
                         "general"}
            ),
        }  # fmt: skip

    @property
    def data_seen(self) -> tuple[str, int]:
        """The tokenized corpus, and its training chunks."""
        return self.store.fingerprint, len(self.splits.train)

    def write_records(self, run: RunDir) -> None:
        """corpus.json."""
        split_seed = self.config.corpus.split_seed
        summary = summarize_corpus(self.store, self.splits, self.loaded.tokenizer, split_seed)
        run.write_json("corpus.json", summary)

    def card(
        self, folder: Path, results: dict[str, Any], records: Mapping[str, Any], name: str
    ) -> Card:
        """With the first of the user's sentences that has one mask, or one of our own."""
        mask = str(self.loaded.tokenizer.mask_token)
        texts = [text.replace(ANY_MASK, mask) for text in self.config.evaluation.examples]
        text = next((text for text in texts if text.count(mask) == 1), f"This is a {mask} example.")
        return masked_lm_card(name, self.config, results, records, fill_mask_snippet(folder, text))

    def caveats(self) -> Iterator[str]:
        """Of the schedule, the training text and the validation text."""
        general = self.general_evaluator
        return caveats.of_masked_lm(
            self.config, self.plan, self.store, self.splits, self.evaluator.masks,
            None if general is None else general.masks,
        )  # fmt: skip

    def announce(self, state: TrainState, run: RunDir) -> Iterator[str]:
        """New heads, text that was left out, and the sizes of it all."""
        name = self.config.model.name_or_path
        if self.loaded.head_is_new and state.step == 0:
            yield (
                f"{name} has no masked-LM head; it gets a new one that starts from token "
                "frequencies, so the perplexity before training says little"
            )
        if self.loaded.pair_head_is_new and state.step == 0:
            yield f"{name} has no head for pairs; it gets a new one, which guesses at first"
        for kind in ("files", "documents"):
            left_out = self.store.funnel[kind]["left_out"]
            if left_out:
                reasons = ", ".join(f"{reason} {count:,}" for reason, count in left_out.items())
                yield f"{kind} left out: {reasons}; see {run.path / 'corpus.json'}"
        yield from remarks(self.store.funnel)
        if isinstance(self.sequences, PairSequences):
            yield f"training pairs: {self.sequences.describe()}"

    def sizes(self) -> str:
        """How many chunks."""
        return (
            f"{len(self.splits.train):,} training and "
            f"{counted(len(self.splits.validation), 'validation chunk')} of "
            f"{self.config.chunking.chunk_length}"
        )

    def describe_means(self, means: Mapping[str, float]) -> str:
        """The loss, and the accuracy on pairs beside the share of their labels."""
        if PAIR_ACCURACY not in means:
            return super().describe_means(means)
        return (
            f"{super().describe_means({LOSS: means[LOSS]})}  "
            f"{share(means[PAIR_ACCURACY])} of pairs right "
            f"({share(means[PAIR_LABEL_SHARE])} do not belong together)"
        )

    def metrics(self, step: int) -> dict[str, float]:
        """The masking rate."""
        return {"mlm_probability": self.source.mlm_probability(step)}

    def fill_examples(self, model: Any) -> list[Any]:
        """For each of `evaluation.examples` what stands at each mask."""
        # Sentences are of any length: a compiled model would be compiled anew for each.
        plainly = self.config.training.compile
        with torch.compiler.set_stance("force_eager") if plainly else nullcontext():
            return [
                [[asdict(prediction) for prediction in mask] for mask in
                 fill_mask(model, self.loaded.tokenizer, text)]
                for text in self.config.evaluation.examples
            ]  # fmt: skip

    def summary(self, results: dict[str, Any]) -> Iterator[str]:
        """Perplexity before and after."""
        before, after = results["eval_perplexity_before"], results["eval_perplexity"]
        interval, draws = results["eval_perplexity_interval"], results["eval_num_mask_draws"]
        masked = counted(results["eval_num_masked_tokens"], "masked token")
        yield (
            f"perplexity {perplexity(before)} before, {perplexity(after)} after"
            + (f" (95 % interval {' to '.join(map(perplexity, interval))})" if interval else "")
            + f", on {masked} of validation text"
            + (f" ({draws} draws of masks)" if draws > 1 else "")
        )
        if "eval_token_frequency_loss" in results:
            yield (
                f"{share(results['eval_accuracy'])} of them right; token frequencies alone: "
                f"{share(results['eval_token_frequency_accuracy'])}, perplexity "
                f"{perplexity(math.exp(results['eval_token_frequency_loss']))}"
            )
        if "eval_pair_accuracy" in results:
            yield (
                f"pairs told right: {share(results['eval_pair_accuracy_before'])} before, "
                f"{share(results['eval_pair_accuracy'])} after, of {results['eval_num_pairs']:,} "
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

    def examples(self, before: list[Any], model: Any) -> Iterator[str]:
        """What stands at each mask, before and after."""
        texts = self.config.evaluation.examples
        for text, old, new in zip(texts, before, self.fill_examples(model), strict=False):
            yield text
            for label, masks in (("before", old), ("after", new)):
                words = " / ".join(", ".join(p["token_str"] for p in mask) for mask in masks)
                yield f"  {label + ':':8}{words}"

    def how_to_try(self, run: RunDir) -> str:
        """Filling in a mask."""
        return own_command("fill", "--model", run.model, "your text with a [MASK]")


def forgetting(state: TrainState, step: int) -> float:
    """Nats a token that general text has lost by a step at which it was measured."""
    assert state.evaluation_before is not None
    before: float = state.evaluation_before["general_loss"]
    return float(state.evaluations[str(step)]["general_loss"] - before)


def build_masked_lm(config: Config, accelerator: Accelerator, console: Console) -> MaskedLM:
    """Load model and corpus, and plan the run on them.

    Raises:
        MlmtuneError: anything that keeps the run from starting.
    """
    measurable = build_measurable(config, accelerator.device, precision_of(accelerator), console)
    check_is_known(measurable, config)
    loaded, splits = measurable.loaded, measurable.splits
    mixture = Mixture.of(splits.train_pairs or splits.train, splits.weights)
    plan = Plan.of(
        config.training,
        num_chunks=len(mixture),
        num_tokens=mixture.num_tokens,
        num_processes=accelerator.num_processes,
    )
    check_warmup(plan.max_steps, config.optimizer)
    collator = MaskingCollator(
        loaded.tokenizer,
        config.masking,
        with_token_type_ids=loaded.has_token_types,
        is_for_compiled_model=config.training.compile,
    )
    sequences: Sequences
    if splits.train_pairs is None:
        sequences = ChunkSequences(splits.train, mixture, config.run.seed)
    else:
        sequences = PairSequences(splits.train_pairs, mixture, config.objective, config.run.seed)
    source = MaskedSequences(sequences, collator, config.masking.mlm_probability, plan.max_steps)
    return MaskedLM(
        **vars(measurable),
        config=with_choices(config, accelerator, loaded, plan),
        plan=plan,
        stream=TrainingStream(
            source, plan, seed=config.run.seed, process_index=accelerator.process_index
        ),
        sequences=sequences,
        source=source,
    )
