"""The runs of a sweep: every combination of the values of some settings."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import xxhash
import yaml

from mlmtune.config import ClassificationConfig, Config, HubConfig, TrackingConfig
from mlmtune.config_loading import load_config, resolved_yaml
from mlmtune.errors import ConfigError
from mlmtune.locations import expand_home

MOST_RUNS = 256
"""More runs are a mistake: the size of a grid is the product of its axes."""

_FIXED: dict[type, tuple[str, ...]] = {
    Config: (
        "corpus", "tokenization", "chunking", "evaluation", "objective", "model.name_or_path",
        "model.revision", "training.precision", "run.output_dir", "checkpoint.best_by",
    ),
    ClassificationConfig: (
        "task", "data.format", "data.train", "data.validation", "data.test", "data.dataset",
        "data.dataset_config", "data.revision", "data.text_field", "data.label_field",
        "data.token_column", "data.tag_column", "data.labels", "data.validation_fraction",
        "data.test_fraction", "data.split_seed", "evaluation", "probe", "training.precision",
        "run.output_dir",
    ),
}  # fmt: skip
"""Settings that decide what is measured, by the kind of config."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        settings: The `section.key` and the value of each setting in which the runs differ.
        overrides: The same settings as arguments of a command.
        config: The config of the run, with a directory of its own.
    """

    settings: dict[str, Any]
    overrides: list[str]
    config: Config | ClassificationConfig


@dataclass(frozen=True)
class PlannedSweep:
    """All runs of a sweep.

    Attributes:
        folder: The folder of the runs and of sweep.json.
        fixed: The overrides that hold for all runs, as they were given.
        axes: The settings in which the runs differ.
        trials: The runs; the last axis changes fastest.
    """

    folder: Path
    fixed: tuple[str, ...]
    axes: tuple[str, ...]
    trials: tuple[Trial, ...]


def plan_sweep(
    path: Path, overrides: Sequence[str], kind: type[Config] | type[ClassificationConfig]
) -> PlannedSweep:
    """Make the config of every run, so that a wrong value is found before the first run starts.

    Args:
        path: The config that all runs start from.
        overrides: `section.key=value`; a list of values is an axis.
        kind: The kind of the config.

    Raises:
        ConfigError: There is no axis, an axis changes what is measured, a run has no budget, there
            are too many runs, or a value is wrong.
    """
    fixed, axes = _axes(overrides)
    for key in axes:
        within = next((name for name in _FIXED[kind] if f"{key}.".startswith(f"{name}.")), None)
        if within is not None:
            raise ConfigError(
                f"{key}: cannot be swept, because runs compare on the same data; choose one value"
            )
    num_runs = math.prod(map(len, axes.values()))
    if num_runs > MOST_RUNS:
        raise ConfigError(
            f"these values make {num_runs:,} runs; {MOST_RUNS} is the most: leave some out"
        )

    folder = Path(f"{expand_home(load_config(path, fixed, kind=kind).run.output_dir)}-sweep")
    trials = []
    for combination in product(*axes.values()):
        settings = dict(zip(axes, combination, strict=True))
        chosen = [f"{key}={_inline(value)}" for key, value in settings.items()]
        config = load_config(path, [*fixed, *chosen], kind=kind)
        training = config.training
        lengths = config.phases if isinstance(config, Config) else ()
        has_budget = training.max_steps is not None or training.max_minutes is not None
        if not has_budget and not (lengths and lengths[0].share is None):
            raise ConfigError(
                f"{path}: training.max_steps: a sweep needs a budget for each run; add "
                "training.max_steps=N or training.max_minutes=M"
            )
        trials.append(Trial(settings, chosen, _in_folder(config, folder, chosen)))
    return PlannedSweep(folder, tuple(fixed), tuple(axes), tuple(trials))


def _axes(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Return the overrides that hold for all runs, and the values of each axis.

    Raises:
        ConfigError: There is no axis; or one has no values, is given twice, or is not YAML.
    """
    fixed, axes = [], {}
    for override in overrides:
        key, _, text = override.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{override}: not YAML; write {key}=[A, B, C]") from None
        if not isinstance(value, list):
            fixed.append(override)
        elif not value or key in axes:
            fault = "names no value" if not value else "is given twice"
            raise ConfigError(f"{override}: {fault}; write {key}=[A, B, C]")
        else:
            # Without repeated values, whose runs would share a directory. They may be unhashable.
            axes[key] = [one for number, one in enumerate(value) if one not in value[:number]]
    if not axes:
        raise ConfigError(
            "there is nothing to try: give a setting several values, such as "
            "'optimizer.learning_rate=[1e-5, 5e-5, 1e-4]'"
        )
    return fixed, axes


def _inline(value: Any) -> str:
    """Write a value as YAML in one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return dumped.removesuffix("...\n").strip()


def _in_folder(
    config: Config | ClassificationConfig, folder: Path, chosen: Sequence[str]
) -> Config | ClassificationConfig:
    """Return the config with a directory of its own, whose name changes with any setting."""
    # What changes no result does not change the name, so that a sweep continues after it.
    identity = config.model_copy(
        update={
            "run": config.run.model_copy(update={"output_dir": str(folder)}),
            "tracking": TrackingConfig(),
            "hub": HubConfig(),
        }
    )
    name = re.sub(r"[^\w.=,+-]+", "_", ",".join(chosen))[:120]  # file systems allow 255 bytes
    digest = xxhash.xxh3_64_hexdigest(resolved_yaml(identity).encode())[:8]
    run = config.run.model_copy(update={"output_dir": str(folder / f"{name}-{digest}")})
    tracking = config.tracking.model_copy(update={"run_name": None})  # they use that name, too
    return config.model_copy(update={"run": run, "tracking": tracking})
