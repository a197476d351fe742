"""What a run trains: the loss and the batches, what is measured, and what is said of it.

The loop knows of steps, signals, checkpoints and processes, and nothing of masks or labels; a task
knows of those, and nothing of steps. To add one: a subclass, and a function that builds it, which
`train()` takes. The loop knows the terms of the loss by their names alone, so that a task may have
any number of them.
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
    """What was measured on validation."""

    @property
    def criterion(self) -> float:
        """What the best weights have least of."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The numbers, under the names of eval_results.json."""
        ...

    def describe(self) -> str:
        """One line for people."""
        ...


class Task(ABC):
    """What a run is made of, before any of it is wrapped for training. Subclasses are frozen.

    Attributes:
        config: the run's config with every `auto` decided.
        loaded: tokenizer and model.
        plan: batches and steps.
        stream: training batches by step.
        measures_before: whether the model says something before it is trained.
        num_targets_name: what metrics.jsonl calls the number of targets of `LOSS` since the start.
        length_key: the setting that says how long a sequence may be.
    """

    config: Settings
    loaded: LoadedModel
    plan: Plan
    stream: TrainingStream[Any]
    measures_before: ClassVar[bool]
    num_targets_name: ClassVar[str]
    length_key: ClassVar[str]

    def with_micro_batch_size(self, size: int) -> Self:
        """The same run in other micro batches: the same steps, on the same draws."""
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
        """The losses of a batch of the stream, which is on the model's device.

        Every batch gives the same terms and tallies, whatever it holds. One term is `LOSS`.
        """

    @abstractmethod
    def num_targets(self, batch: Any) -> dict[str, int]:
        """What the sums of a batch are divided by, once they are added up over a step.

        Returns:
            How many targets, such as masked tokens, the batch has for each of the names in
            `losses`. Known before the model runs.
        """

    @property
    @abstractmethod
    def why_not_compilable(self) -> str | None:
        """Why a compiled model cannot take the sequences, and what to set; None where it can."""

    @abstractmethod
    def memory_shape(self, micro_batch_size: int) -> tuple[int, int]:
        """Tokens of the longest sequence, and logits that a micro-batch computes."""

    # ----------------------------------------------------------------------------- measuring

    @abstractmethod
    def evaluate(
        self, accelerator: Accelerator, model: Any, should_stop: Callable[[], bool]
    ) -> ValidationResult | None:
        """Measure on validation; None if it was told to stop."""

    def reason_to_stop(self, state: TrainState) -> str | None:
        """Why what the last evaluation found ends the run; None where it does not."""
        return None

    def is_worse_than_base(self, state: TrainState, step: int) -> bool:
        """Whether a step was measured as worse than the model before training."""
        return False

    def results(self, state: TrainState, step: int) -> dict[str, Any]:
        """eval_results.json of the weights of a step."""
        return {**state.evaluations[str(step)], "step": step}

    def test(self, accelerator: Accelerator, model: Any, run: RunDir) -> dict[str, Any]:
        """test_results.json of the weights that are the result; empty where nothing is tested."""
        return {}

    # ------------------------------------------------------------------- identity and records

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the one before, by section; see `job`."""

    @property
    @abstractmethod
    def data_seen(self) -> tuple[str, int]:
        """Fingerprint and size of the data, which all processes must see alike."""

    @abstractmethod
    def write_records(self, run: RunDir) -> None:
        """Write what the run was trained on, in numbers."""

    @abstractmethod
    def card(
        self, folder: Path, results: dict[str, Any], records: Mapping[str, Any], name: str
    ) -> Card:
        """The model card.

        Args:
            folder: holds the model, as `from_pretrained` loads it.
            results: what was measured of them: of the test where there is one, else of validation.
            records: what `write_records` wrote, and environment.json's content, by their names
                without the ending.
            name: of the model.
        """

    # -------------------------------------------------------------------------- for people

    @abstractmethod
    def caveats(self) -> Iterator[str]:
        """What is likely to make the result worthless, a line each, with what to do."""

    @abstractmethod
    def announce(self, state: TrainState, run: RunDir) -> Iterator[str]:
        """What else is said before the first step of a sitting."""

    @abstractmethod
    def sizes(self) -> str:
        """How much there is to train and to validate on."""

    def describe_means(self, means: Mapping[str, float]) -> str:
        """The means since the last log line, by the names in `losses`, as part of a line."""
        return "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())

    def metrics(self, step: int) -> dict[str, float]:
        """What else metrics.jsonl has of a step, counted from 0."""
        return {}

    def fill_examples(self, model: Any) -> list[Any]:
        """What the model makes of the user's own examples; JSON values."""
        return []

    @abstractmethod
    def summary(self, results: dict[str, Any]) -> Iterator[str]:
        """What came of it; `results` is all_results.json's content."""

    def examples(self, before: list[Any], model: Any) -> Iterator[str]:
        """What became of the user's own examples."""
        yield from ()

    @abstractmethod
    def how_to_try(self, run: RunDir) -> str:
        """A command to try the result by."""


def with_choices(
    config: ConfigT, accelerator: Accelerator, loaded: LoadedModel, plan: Plan
) -> ConfigT:
    """The config with what was decided for the user written into it."""
    choices: dict[str, dict[str, Any]] = {
        "model": {"attn_implementation": loaded.attn_implementation},
        "training": {
            "precision": precision_of(accelerator),
            "epochs": default_epochs(config.training),
        },
    }
    if config.training.micro_batch_size != "auto":  # found out once there is an optimizer
        choices["training"]["micro_batch_size"] = plan.micro_batch_size
    return config.model_copy(
        update={
            section: getattr(config, section).model_copy(update=values)
            for section, values in choices.items()
        }
    )
