"""The base of some runs, loaded as they loaded it, with checks that it is theirs."""

from collections.abc import Sequence
from pathlib import Path

import torch

from mlmtune.config import ModelConfig
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.integrity import digest
from mlmtune.merging.interpolation import Interpolation
from mlmtune.modeling.loading import ModelRequest, load_pretrained
from mlmtune.modeling.locating import ModelFolder, locate_model, read_model_config
from mlmtune.modeling.tokenizer import load_tokenizer
from mlmtune.printable import counted
from mlmtune.report.runs import FinishedRun
from mlmtune.tokens.encoding import plain_backend


def load_interpolation(
    runs: Sequence[FinishedRun], others: Sequence[FinishedRun], folder: Path, console: Console
) -> Interpolation:
    """Load the base of some runs, and check that only the values of weights differ.

    Args:
        runs: The finished runs, all of one base.
        others: Finished runs that are compared with the merged models; their base is the same.
        folder: A folder for the base, which is read from there while models are merged.
        console: Reports weights that the base lacks.

    Raises:
        ConfigError: The base cannot be found, or bases, tokenizers or architectures differ.
        HubError: The base cannot be fetched.
    """
    config = runs[0].config
    base = _base_of([*runs, *others])
    models = [ModelFolder(run.model, str(run.model)) for run in runs]
    tokenizer = _fingerprint(base)
    for model in models:
        if _fingerprint(model) != tokenizer:
            raise ConfigError(
                f"{model.name}: its tokenizer is not that of its base {base.name}; restore the "
                "one that it was saved with"
            )
        kinds = [read_model_config(folder)["model_type"] for folder in (base, model)]
        if kinds[0] != kinds[1]:
            raise ConfigError(
                f"{model.name}: its architecture is {kinds[1]}, and that of its base {base.name} "
                f"is {kinds[0]}; restore the base that the run started from"
            )
    request = ModelRequest(
        ModelConfig(name_or_path=config.model.name_or_path),
        max_length=config.chunking.chunk_length,
        device=torch.device("cpu"),
        precision="fp32",
        seed=config.run.seed,
        folder=base,
    )
    loaded = load_pretrained(request, config.objective)
    weights = Interpolation(loaded, base.name, [run.model for run in runs], folder)
    if weights.new_weights:
        console.say(
            f"{base.name} lacks {counted(len(weights.new_weights), 'weight')} of the runs' models "
            f"({weights.new_weights[0]}, ...), which are taken from the runs at every alpha"
        )
        if len({run.config.run.seed for run in runs}) > 1:
            console.say(
                "the runs drew these weights with different seeds (run.seed), so that their mean "
                "may predict badly; train all runs of a soup with one run.seed"
            )
    return weights


def _base_of(runs: Sequence[FinishedRun]) -> ModelFolder:
    """Return the folder of the base of all runs."""
    folders = [locate_model(run.config.model.name_or_path, run.config.model.revision)
               for run in runs]  # fmt: skip
    for run, folder in zip(runs[1:], folders[1:], strict=True):
        if folder.path.resolve() != folders[0].path.resolve():
            raise ConfigError(
                f"{run.path}: its base is {folder.name}, and that of {runs[0].path} is "
                f"{folders[0].name}; give runs of one base"
            )
    return folders[0]


def _fingerprint(folder: ModelFolder) -> str:
    """Return a hash of how a model's tokenizer cuts text."""
    return digest(plain_backend(load_tokenizer(folder)).to_str().encode())
