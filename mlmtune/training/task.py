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

from accelerate import Accelerator

from mlmtune.config import ClassificationConfig, Config
from mlmtune.modeling.device import precision_of
from mlmtune.modeling.loading import LoadedModel
from mlmtune.modeling.losses import Losses
from mlmtune.sharing.card import Card
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.plan import Plan, default_epochs
from mlmtune.training.run_dir import RunDir
from mlmtune.training.stream import TrainingStream

Settings = Config | ClassificationConfig
ConfigT = TypeVar("ConfigT", Config, ClassificationConfig)


class ValidationResult(Protocol):
    """What a task measured on validation."""

    @property
    def criterion(self) -> float:
        """The number by which weights are compared; the lowest is the best."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the numbers under their names in eval_results.json."""
        ...

    def describe(self) -> str:
        """Return one line for people."""
        ...


class Task(ABC):
    """A model and its data, before the model is wrapped for training. Subclasses are frozen.

    Attributes:
        config: The run's config with every `auto` decided.
        loaded: Tokenizer and model.
        plan: Batches and steps.
        stream: The training batches by step.
        measures_before: Whether the model can be measured before it is trained.
        num_targets_name: The name in metrics.jsonl of the number of targets of `LOSS`.
        length_key: The setting that limits the length of a sequence.
    """

    config: Settings
    loaded: LoadedModel
    plan: Plan
    stream: TrainingStream[Any]
    measures_before: ClassVar[bool]
    num_targets_name: ClassVar[str]
    length_key: ClassVar[str]

    def with_micro_batch_size(self, size: int) -> Self:
        """Return the same task in other micro batches: the same steps, with the same draws."""
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
        """Count the targets of a batch, by which the sums of a step are divided.

        Returns:
            The number of targets, such as masked tokens, for each of the names in `losses`. It is
            known before the model runs.
        """

    @property
    @abstractmethod
    def why_not_compilable(self) -> str | None:
        """Why a compiled model cannot take the sequences, and what to set; None where it can."""

    @abstractmethod
    def memory_shape(self, micro_batch_size: int) -> tuple[int, int]:
        """Return the tokens of the longest sequence and the logits of a micro-batch."""

    # ----------------------------------------------------------------------------- measuring

    @abstractmethod
    def evaluate(
        self, accelerator: Accelerator, model: Any, should_stop: Callable[[], bool]
    ) -> ValidationResult | None:
        """Measure on validation; None if it was told to stop meanwhile."""

    def reason_to_stop(self, state: TrainState) -> str | None:
        """Say why the last evaluation ends the run; None where it does not."""
        return None

    def is_worse_than_base(self, state: TrainState, step: int) -> bool:
        """Whether a step's evaluation is worse than the one before training."""
        return False

    def results(self, state: TrainState, step: int) -> dict[str, Any]:
        """Return the content of eval_results.json for the weights of a step."""
        return {**state.evaluations[str(step)], "step": step}

    def test(self, accelerator: Accelerator, model: Any, run: RunDir) -> dict[str, Any]:
        """Measure the resulting weights for test_results.json; empty without a test set."""
        return {}

    # ------------------------------------------------------------------- identity and records

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share with the earlier one, by section."""

    @property
    @abstractmethod
    def data_seen(self) -> tuple[str, int]:
        """Fingerprint and size of the data, which must be the same in all processes."""

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
            results: The results on the test set where there is one, else on validation.
            records: The content of environment.json and of the files of `write_records`, by their
                names without the ending.
            name: The name of the model.
        """

    # -------------------------------------------------------------------------- for people

    @abstractmethod
    def caveats(self) -> Iterator[str]:
        """Yield what is likely to make the result worthless, a line each, with what to do."""

    @abstractmethod
    def announce(self, state: TrainState, run: RunDir) -> Iterator[str]:
        """Yield further lines that are shown before the first step of a sitting."""

    @abstractmethod
    def sizes(self) -> str:
        """Say how much data there is for training and for validation."""

    def describe_means(self, means: Mapping[str, float]) -> str:
        """Write the means since the last log line, by the names in `losses`, as part of a line."""
        return "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())

    def metrics(self, step: int) -> dict[str, float]:
        """Return further metrics of a step, counted from 0, for metrics.jsonl."""
        return {}

    def fill_examples(self, model: Any) -> list[Any]:
        """Return the model's predictions for the user's own examples, as JSON values."""
        return []

    @abstractmethod
    def summary(self, results: dict[str, Any]) -> Iterator[str]:
        """Yield lines on the outcome; `results` is the content of all_results.json."""

    def examples(self, before: list[Any], model: Any) -> Iterator[str]:
        """Yield lines on the user's own examples, before and after."""
        yield from ()

    @abstractmethod
    def how_to_try(self, run: RunDir) -> str:
        """Return a command that tries the result."""


def with_choices(
    config: ConfigT, accelerator: Accelerator, loaded: LoadedModel, plan: Plan
) -> ConfigT:
    """Return the config with the decisions in it that were left to mlmtune."""
    choices: dict[str, dict[str, Any]] = {
        "model": {"attn_implementation": loaded.attn_implementation},
        "training": {
            "precision": precision_of(accelerator),
            "epochs": default_epochs(config.training),
        },
    }
    if config.training.micro_batch_size != "auto":  # measured once there is an optimizer
        choices["training"]["micro_batch_size"] = plan.micro_batch_size
    return config.model_copy(
        update={
            section: getattr(config, section).model_copy(update=values)
            for section, values in choices.items()
        }
    )
