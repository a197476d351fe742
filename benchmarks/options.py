"""The shared options of the benchmarks' command lines, and the setting that both sides get."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interleaved import SideFailed, run_apart

MODELS = ("minilm", "distilbert", "bert-base", "bert-large")
PRECISIONS = ("fp32", "bf16", "fp16")
CHARACTERS_PER_TOKEN = 5
"""More than English text has, so that the text for a number of tokens is not too short."""
MOST_CHARACTERS = 20_000_000
"""Longer runs repeat the text, because the peer's tokenization would take minutes."""
FEWEST_CHARACTERS = 100_000
"""Enough for some chunks on both sides of the split."""


@dataclass(frozen=True)
class Setting:
    """The setting of both sides, which is pickled into their processes.

    Attributes:
        model: The folder of the model.
        train: JSON Lines of the training documents.
        validation: JSON Lines of the validation documents.
        workspace: A folder for caches and results, deleted at the end.
        precision: fp32, bf16 or fp16.
        batch_size: Sequences in a step, or evaluated at once.
        length: Tokens in a sequence.
        max_steps: The step at which the learning rate's schedule ends.
        dropout: Every dropout rate of the model; None keeps the model's own.
        compiled: Set `training.compile` on our side.
        seed: The seed of order, masks and dropout.
        max_chunks: The number of validation sequences to evaluate; None is all of them.
    """

    model: Path
    train: Path
    validation: Path
    workspace: Path
    precision: str
    batch_size: int
    length: int
    max_steps: int = 1
    dropout: float | None = None
    compiled: bool = False
    seed: int = 0
    max_chunks: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what a reader needs to repeat the benchmark, without paths."""
        values = asdict(self)
        for name in ("model", "train", "validation", "workspace"):
            del values[name]
        return values


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured here")
    return made


def add_text(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--text", type=Path, metavar="PATH",
        help="file or folder of .md or .txt; without it, what the quickstart config reads",
    )  # fmt: skip


def add_model(arguments: argparse.ArgumentParser, *, batch_size: int = 16) -> None:
    add_text(arguments)
    arguments.add_argument("--model", choices=MODELS, default="minilm", help="default %(default)s")
    arguments.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="default %(default)s"
    )
    _add_number(arguments, "--batch-size", batch_size, "sequences at once")
    _add_number(arguments, "--length", 128, "tokens in a sequence")


def add_training(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--dropout", type=float, help="every dropout rate, on both sides; without it the model's"
    )
    arguments.add_argument(
        "--compile", action="store_true", help="set training.compile on our side"
    )


def add_rounds(arguments: argparse.ArgumentParser, *, rounds: int, steps: int, warmup: int) -> None:
    _add_number(arguments, "--rounds", rounds, "turns of each side")
    _add_number(arguments, "--steps", steps, "units of work in a turn")
    _add_number(arguments, "--warmup", warmup, "units of work before the first turn")


def _add_number(arguments: argparse.ArgumentParser, name: str, default: int, meaning: str) -> None:
    arguments.add_argument(
        name, type=int, default=default, metavar="N", help=f"{meaning}; default {default}"
    )


def characters_for(num_tokens: int) -> int:
    """Return the number of characters to write for a number of tokens."""
    return min(num_tokens * CHARACTERS_PER_TOKEN, MOST_CHARACTERS)


@contextmanager
def workspace() -> Iterator[Path]:
    """Make a folder for all that a benchmark writes; it is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="mlmtune-benchmark-") as folder:
        yield Path(folder)


def setting_for(
    options: argparse.Namespace,
    folder: Path,
    *,
    num_train_characters: int = FEWEST_CHARACTERS,
    num_validation_characters: int = FEWEST_CHARACTERS,
    **more: Any,
) -> Setting:
    """Make model and text in a workspace, as the command line asks for them.

    Args:
        options: Options of a parser with `add_model`, and with `add_training` for training.
        folder: The workspace.
        num_train_characters: How much text to write, by cutting or repeating.
        num_validation_characters: The same for validation.
        more: Other fields of the setting.
    """
    texts = run_apart(
        "texts:prepare",
        options.text,
        folder,
        max(num_train_characters, FEWEST_CHARACTERS),
        max(num_validation_characters, FEWEST_CHARACTERS),
    )
    return Setting(
        model=run_apart("models:prepare", options.model, folder),
        train=texts.train,
        validation=texts.validation,
        workspace=folder,
        precision=options.precision,
        batch_size=options.batch_size,
        length=options.length,
        dropout=getattr(options, "dropout", None),
        compiled=getattr(options, "compile", False),
        **more,
    )


def main(benchmark: Callable[[], None]) -> None:
    """Run a benchmark; report a side's failure without the parent's own traceback."""
    try:
        benchmark()
    except SideFailed as error:
        sys.exit(str(error))
