"""What a run trains: the loss, the batches, the measurements, and the messages about them.

The loop knows steps, signals, checkpoints and processes, and nothing of masks or labels; a task
knows those, and nothing of steps. To add a task, write a subclass and a function that builds it,
which `train()` takes. The loop knows the terms of the loss by their names alone, so that a task may
have any number of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from accelerate import Accelerator

from mlmtune.config import ClassificationConfig, Config
from mlmtune.modeling.device import precision_of
from mlmtune.modeling.loading import LoadedModel
from mlmtune.modeling.losses import Losses
from mlmtune.sharing.card import Card
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.lineage import Ancestor
from mlmtune.training.plan import Plan
from mlmtune.training.run_dir import RunDir
from mlmtune.training.stream import TrainingStream

Settings = Config | ClassificationConfig
ConfigT = TypeVar("ConfigT", Config, ClassificationConfig)


class ValidationResult(Protocol):
    """The measurements of a task on validation."""

    @property
    def criterion(self) -> float:
        """The number by which weights are compared; the lowest is the best."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by their names in eval_results.json."""
        ...

    def describe(self) -> str:
        """Return one line for people."""
        ...


class Task(ABC):
    """A model and its data, before the model is wrapped for training. Subclasses are frozen.

    Attributes:
        config: The run's config with every `auto` decided.
        loaded: The model, which a run trains in place, and its tokenizer.
        plan: The sizes of batches and the number of steps.
        stream: The training batches of each step.
        lineage: What the run goes on from, with the optimizer's moments; the oldest first.
        measures_before: Whether the model can be measured before it is trained.
        num_targets_name: The name in metrics.jsonl of the number of targets of `LOSS`.
        length_key: The setting that limits the length of a sequence.
    """

    config: Settings
    loaded: LoadedModel
    plan: Plan
    stream: TrainingStream[Any]
    lineage: tuple[Ancestor, ...] = ()
    measures_before: ClassVar[bool]
    num_targets_name: ClassVar[str]
    length_key: ClassVar[str]

    def with_micro_batch_size(self, size: int) -> Self:
        """Return the same task in other micro-batches: the same steps, with the same draws."""
        plan = replace(self.plan, micro_batch_size=size)
        training = self.config.training.model_copy(update={"micro_batch_size": size})
        changed: dict[str, Any] = {
            "config": self.config.model_copy(update={"training": training}),
            "plan": plan,
            "stream": self.stream.with_plan(plan),
        }
        return replace(self, **changed)  # type: ignore[type-var]

    # ------------------------------------------------------------------------------ training

    @abstractmethod
    def losses(self, model: Any, batch: Any) -> Losses:
        """Compute the losses of a batch of the stream, which is on the model's device.

        Every batch gives the same terms and tallies, whatever it holds. One term is `LOSS`.
        """

    @abstractmethod
    def num_targets(self, batch: Any) -> dict[str, int]:
        """Count the targets of a batch, such as masked tokens, under each name in `losses`.

        The sums of a step are divided by these numbers, which are known before the model runs.
        """

    @property
    @abstractmethod
    def why_not_compilable(self) -> str | None:
        """Why a compiled model cannot take the sequences, and what to set; None if it can."""

    @abstractmethod
    def memory_shape(self, micro_batch_size: int, device: torch.device) -> tuple[int, int]:
        """Return the tokens of the longest sequence, and the logits that exist at a time."""

    # ----------------------------------------------------------------------------- measuring

    @abstractmethod
    def evaluate(
        self, accelerator: Accelerator, model: Any, should_stop: Callable[[], bool]
    ) -> ValidationResult | None:
        """Measure the model on validation; None if `should_stop` became true meanwhile."""

    def reason_to_stop(self, state: TrainState) -> str | None:
        """Return why the last evaluation ends the run; None if it does not."""
        return None

    def worse_than_base(self, state: TrainState, step: int) -> list[str]:
        """Name the measures by which a step's evaluation is worse than the one before training."""
        return []

    def results(self, state: TrainState, step: int) -> dict[str, Any]:
        """Return the content of eval_results.json for the weights of a step."""
        return {**state.evaluations[str(step)], "step": step}

    def test(self, accelerator: Accelerator, model: Any, run: RunDir) -> dict[str, Any]:
        """Return the content of test_results.json for the result; empty without a test set."""
        return {}

    # ------------------------------------------------------------------- identity and records

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share with the earlier one, by section."""

    @property
    @abstractmethod
    def data_seen(self) -> tuple[str, int]:
        """The fingerprint and the size of the data, which must be the same in all processes."""

    @abstractmethod
    def write_records(self, run: RunDir) -> None:
        """Write files that describe the training data in numbers."""

    @abstractmethod
    def card(
        self, folder: Path, results: dict[str, Any], records: Mapping[str, Any], name: str
    ) -> Card:
        """Build the model card.

        Args:
            folder: The folder of the model, as `from_pretrained` loads it.
            results: The results on the test set if there is one, else on validation.
            records: The content of environment.json and of the files of `write_records`, by their
                names without the ending.
            name: The name of the model.
        """

    # -------------------------------------------------------------------------- for people

    @abstractmethod
    def caveats(self) -> Iterator[str]:
        """Yield a line for each likely cause of a worthless result, with what to do about it."""

    @abstractmethod
    def announce(self, state: TrainState, run: RunDir) -> Iterator[str]:
        """Yield the lines of this task that are shown before the first step of a sitting."""

    @abstractmethod
    def sizes(self) -> str:
        """Return how much data there is for training and for validation, in words."""

    def describe_means(self, means: Mapping[str, float]) -> str:
        """Return the means since the last log line, by the names in `losses`, in words."""
        return "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())

    def metrics(self, step: int) -> dict[str, float]:
        """Return further metrics of a step, counted from 0, for metrics.jsonl."""
        return {}

    def fill_examples(self, model: Any) -> dict[str, Any]:
        """Return the model's predictions for each of the user's own examples, as JSON values."""
        return {}

    @abstractmethod
    def summary(self, results: dict[str, Any]) -> Iterator[str]:
        """Yield lines on the outcome; `results` is the content of all_results.json."""

    def examples(self, before: dict[str, Any], model: Any) -> Iterator[str]:
        """Yield lines that compare the user's own examples before and after training."""
        yield from ()

    @abstractmethod
    def how_to_try(self, run: RunDir) -> str:
        """Return a command that tries the result."""


def with_choices(
    config: ConfigT, accelerator: Accelerator, loaded: LoadedModel, plan: Plan
) -> ConfigT:
    """Return the config with each `auto` decided, as config.resolved.yaml records it."""
    choices: dict[str, dict[str, Any]] = {
        "model": {"attn_implementation": loaded.attn_implementation},
        "training": {"precision": precision_of(accelerator)},
    }
    phases = config.phases if isinstance(config, Config) else ()
    if not phases or phases[0].share is not None:  # else the phases say how long the run is
        choices["training"]["epochs"] = config.training.planned_epochs
    if config.training.micro_batch_size != "auto":  # `fit_micro_batch` decides it
        choices["training"]["micro_batch_size"] = plan.micro_batch_size
    return config.model_copy(
        update={
            section: getattr(config, section).model_copy(update=values)
            for section, values in choices.items()
        }
    )
