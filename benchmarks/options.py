"""The shared options of the benchmarks, and the setting that both sides get."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interleaved import SideFailed, run_apart

MODELS = (
    "minilm", "small", "distilbert", "bert-base", "bert-large", "modernbert", "tiny-bert",
    "tiny-modernbert",
)  # fmt: skip
PRECISIONS = ("fp32", "bf16", "fp16")
CHARACTERS_PER_TOKEN = 5
"""More than English text has, so that the text is long enough for a number of tokens."""
MOST_CHARACTERS = 20_000_000
"""Longer runs repeat the text, because the peer would take minutes to tokenize more."""
FEWEST_CHARACTERS = 100_000
"""Enough for some chunks on both sides of the split."""


@dataclass(frozen=True)
class Setting:
    """The conditions under which both sides are measured; pickled into their processes.

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
        compiled: Whether the side compiles its model.
        seed: The seed of order, masks and dropout.
        max_chunks: The number of validation sequences to evaluate; None means all.
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
        return {name: v for name, v in asdict(self).items() if not isinstance(v, Path)}


class CommandLine(argparse.ArgumentParser):
    """The command line of a benchmark.

    Args:
        description: The documentation of the script.
    """

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.add_argument("--json", type=Path, metavar="FILE", help="write all measurements here")

    def add_number(self, name: str, default: int, meaning: str) -> None:
        self.add_argument(
            name, type=int, default=default, metavar="N", help=f"{meaning}; default %(default)s"
        )

    def add_text(self) -> None:
        self.add_argument(
            "--text", type=Path, metavar="PATH",
            help="file or folder of .md or .txt; without it, what the quickstart config reads",
        )  # fmt: skip

    def add_model(self, *, batch_size: int = 16) -> None:
        """Add what `setting_for` reads; with `add_training` for benchmarks that train."""
        self.add_text()
        self.add_argument("--model", choices=MODELS, default="minilm", help="default %(default)s")
        self.add_argument(
            "--precision", choices=PRECISIONS, default="fp32", help="default %(default)s"
        )
        self.add_number("--batch-size", batch_size, "sequences at once")
        self.add_number("--length", 128, "tokens in a sequence")

    def add_training(self) -> None:
        self.add_argument(
            "--dropout",
            type=float,
            help="every dropout rate, on both sides; without it the model's",
        )

    def add_rounds(self, *, rounds: int, steps: int, warmup: int) -> None:
        self.add_number("--rounds", rounds, "turns of each side")
        self.add_number("--steps", steps, "units of work in a turn")
        self.add_number("--warmup", warmup, "units of work before the first turn")


def characters_for(num_tokens: int) -> int:
    """Return the number of characters that hold at least a number of tokens, within a limit."""
    return max(min(num_tokens * CHARACTERS_PER_TOKEN, MOST_CHARACTERS), FEWEST_CHARACTERS)


@contextmanager
def workspace() -> Iterator[Path]:
    """Make a folder for what a benchmark writes; it is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="mlmtune-benchmark-") as folder:
        yield Path(folder)


def setting_for(
    options: argparse.Namespace,
    folder: Path,
    *,
    num_train_characters: int | None = FEWEST_CHARACTERS,
    num_validation_characters: int | None = FEWEST_CHARACTERS,
    vocab_size: int | None = None,
    **more: Any,
) -> Setting:
    """Make model and text in a workspace, as the command line asks for them.

    Args:
        options: The options of `CommandLine.add_model`, and perhaps of `add_training`.
        folder: The workspace.
        num_train_characters: How much text to write, by cutting or repeating; see `texts.prepare`.
        num_validation_characters: The same for validation.
        vocab_size: The ids of the model; None leaves the shape its own.
        more: Other fields of the setting.
    """
    sizes = num_train_characters, num_validation_characters
    with ThreadPoolExecutor() as pool:
        model = pool.submit(run_apart, "models:prepare", options.model, folder, vocab_size)
        texts = pool.submit(run_apart, "texts:prepare", options.text, folder, *sizes)
    return Setting(
        model=model.result(),
        train=texts.result().train,
        validation=texts.result().validation,
        workspace=folder,
        precision=options.precision,
        batch_size=options.batch_size,
        length=options.length,
        dropout=getattr(options, "dropout", None),
        **more,
    )


def main(benchmark: Callable[[], None]) -> None:
    """Run a benchmark; report a side's failure without the parent's own traceback."""
    try:
        benchmark()
    except SideFailed as error:
        sys.exit(str(error))
