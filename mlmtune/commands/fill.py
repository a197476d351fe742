"""`mlmtune fill`: show what models predict for the masks of sentences, side by side."""

import json
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from shutil import get_terminal_size

import torch
from transformers import PreTrainedTokenizerFast

from mlmtune.config import ModelConfig
from mlmtune.console import Console
from mlmtune.errors import MlmtuneError, StoppedAtOnce
from mlmtune.evaluation.fill_mask import (
    ANY_MASK,
    MaskPredictions,
    Target,
    TargetWords,
    encode_masked_text,
    predict_masks,
)
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_pretrained
from mlmtune.modeling.locating import locate_model
from mlmtune.modeling.names import short_names
from mlmtune.modeling.tokenizer import load_tokenizer
from mlmtune.numbers import probability
from mlmtune.tables import cell_width, table

PROMPT = "text> "

SCORE_WIDTH = len("<0.001%")
LABEL_WIDTH = 16
MIN_COLUMN_WIDTH = SCORE_WIDTH + len("  rank 30,522")
MAX_COLUMN_WIDTH = 32
"""Longer texts continue in the line below."""
INDENT = "  "


@dataclass(frozen=True)
class Answer:
    """What one model predicts for a sentence.

    Attributes:
        name: A short name of the model that is unique among the models.
        model: The location of the model, as it was given.
        head_is_new: Whether its head is untrained, so that its predictions mean nothing.
        masks: The predictions for each mask, from left to right.
    """

    name: str
    model: str
    head_is_new: bool
    masks: tuple[MaskPredictions, ...]


@dataclass(frozen=True)
class FilledText:
    """What all models predict for a sentence: the record of `--json`."""

    text: str
    models: tuple[Answer, ...]

    def lines(self, width: int) -> Iterator[str]:
        """Yield the sentence and a block for each mask.

        Args:
            width: The number of columns of the terminal. The filled-in sentences of a single model
                are not cut.
        """
        yield self.text
        for number, masks in enumerate(zip(*(a.masks for a in self.models), strict=True), start=1):
            if len(self.models[0].masks) > 1:
                yield f"  mask {number} of {len(self.models[0].masks)}"
            if len(masks) == 1:
                yield from _list(masks[0])
            else:
                names = [answer.name for answer in self.models]
                yield from _columns(names, masks, width)


class MaskFiller:
    """Models that fill the masks of sentences, loaded once.

    Tokenizers are loaded first, so that a wrong sentence is reported before weights are loaded.

    Args:
        locations: Folders, directories of runs, names on a hub, or `package://NAME/FOLDER`.
        sentences: The sentences that are known already.
        words: The words to look up at each mask.

    Raises:
        ConfigError: A model cannot be loaded, or a sentence has no mask or is too long for it.
        HubError: The hub cannot be reached, or has no such model.
    """

    def __init__(
        self,
        locations: Sequence[str],
        sentences: Sequence[str],
        words: Sequence[str],
        top_k: int,
        console: Console,
    ) -> None:
        self._locations = locations
        self._names = short_names(locations)
        self._top_k = top_k
        folders = [locate_model(location, None, "--model") for location in locations]
        tokenizers = [load_tokenizer(folder) for folder in folders]
        self._mask_tokens = {str(tokenizer.mask_token) for tokenizer in tokenizers}
        self._targets = [TargetWords(words, tokenizer) for tokenizer in tokenizers]
        self._check(sentences, tokenizers)
        self._loaded: list[LoadedModel] = []
        for location, folder in zip(locations, folders, strict=True):
            request = ModelRequest(
                ModelConfig(name_or_path=location),
                max_length=1,  # `_check` finds sentences that are too long
                device=torch.device("cpu"),
                precision="fp32",
                seed=0,
                # The hub is asked once, so weights and tokenizer are of one revision.
                folder=folder,
            )
            loaded = load_pretrained(request, "mlm")
            for note in loaded.notes:
                console.say(note)
            if loaded.head_is_new:
                console.say(
                    f"{location} has no masked-LM head; it gets a new one, so its predictions "
                    "mean nothing"
                )
            self._loaded.append(loaded)
        # Not every tokenizer knows how much its model takes.
        self._check(sentences, [loaded.tokenizer for loaded in self._loaded])

    def _check(
        self, sentences: Iterable[str], tokenizers: Sequence[PreTrainedTokenizerFast]
    ) -> None:
        for text in sentences:
            for tokenizer in tokenizers:
                encode_masked_text(tokenizer, self._for_any_model(text))

    def _for_any_model(self, text: str) -> str:
        """Replace the mask tokens of all models by `[MASK]`."""
        for mask in self._mask_tokens:
            text = text.replace(mask, ANY_MASK)
        return text

    def fill(self, text: str) -> FilledText:
        """Let every model fill a sentence.

        Raises:
            ConfigError: The sentence has no mask, or is too long for one of the models.
        """
        asked = self._for_any_model(text)
        answers = [
            Answer(
                name=name,
                model=location,
                head_is_new=loaded.head_is_new,
                masks=tuple(
                    predict_masks(loaded.model, loaded.tokenizer, asked, self._top_k, targets)
                ),
            )
            for name, location, loaded, targets in zip(
                self._names, self._locations, self._loaded, self._targets, strict=True
            )
        ]
        return FilledText(text, tuple(answers))


def show(filled: Iterable[FilledText], console: Console, *, as_json: bool) -> None:
    """Print the predictions as tables, or as one JSON list."""
    if as_json:
        records = [asdict(of_text) for of_text in filled]
        console.result(json.dumps(records, indent=2, ensure_ascii=False))
        return
    for number, of_text in enumerate(filled):
        if number:
            console.result("")
        # Without a terminal, this is 80.
        for line in of_text.lines(get_terminal_size().columns):
            console.result(line)


def converse(answer: Callable[[str], None], console: Console) -> None:
    """Ask for sentences and answer each, until the input ends; print the errors in sentences."""
    console.say(f"type a sentence with {ANY_MASK} in it; Ctrl-D ends")
    while True:
        try:
            text = _ask()
            if text.strip():
                answer(text)
        except EOFError:
            console.say("")  # the shell's prompt gets a line of its own
            return
        except UnicodeDecodeError as error:
            console.say(f"mlmtune: the sentence is not UTF-8 text ({error.reason})")
        except MlmtuneError as error:
            console.say(f"mlmtune: {error}")
        except StoppedAtOnce:
            console.say("")
            raise


def _ask() -> str:
    if sys.stdout.isatty():
        return input(PROMPT)
    # Standard output goes to a file or a pipe, where the prompt would be between the answers.
    print(PROMPT, end="", file=sys.stderr, flush=True)
    return input()


def _list(mask: MaskPredictions) -> Iterator[str]:
    """Yield a line per candidate of one model, with the sentence filled in."""
    rows = [
        (probability(p.score), _visible(p.token_str), _visible(p.sequence))
        for p in mask.predictions
    ]
    for target in mask.targets:
        score = "" if target.score is None else probability(target.score)
        rows.append((score, target.word, _rank(target)))
    aligned = [(f"{score:>{SCORE_WIDTH}}", *others) for score, *others in rows]
    yield from table(aligned, left=(0, 1, 2), indent=INDENT)


def _columns(names: Sequence[str], masks: Sequence[MaskPredictions], width: int) -> Iterator[str]:
    """Yield a table with a column per model; columns beyond the terminal's width continue below."""
    num_candidates = max(len(mask.predictions) for mask in masks)
    ranks = [str(rank) for rank in range(1, num_candidates + 1)]
    words = [textwrap.fill(target.word, LABEL_WIDTH) for target in masks[0].targets]
    labels = ["", *ranks, *words]
    room = width - len(INDENT) - cell_width(labels)
    for_each = room // len(masks) - len(INDENT)
    column_width = min(max(for_each, MIN_COLUMN_WIDTH), MAX_COLUMN_WIDTH)
    columns = [
        _column(name, mask, num_candidates, column_width)
        for name, mask in zip(names, masks, strict=True)
    ]
    while columns:
        ends = accumulate(len(INDENT) + cell_width(column) for column in columns)
        num_fitting = max(1, sum(end <= room for end in ends))
        rows = list(zip(labels, *columns[:num_fitting], strict=True))
        yield from table(rows, left=range(len(rows[0])), indent=INDENT)
        columns = columns[num_fitting:]


def _column(name: str, mask: MaskPredictions, num_candidates: int, width: int) -> list[str]:
    """Return the cells of a model: its name, the candidates, the targets."""
    candidates = [_scored(p.score, _visible(p.token_str), width) for p in mask.predictions]
    missing = [""] * (num_candidates - len(candidates))  # a tiny vocabulary
    targets = [
        textwrap.fill(_rank(target), width)
        if target.score is None
        else _scored(target.score, _rank(target), width)
        for target in mask.targets
    ]
    return [textwrap.fill(name, width), *candidates, *missing, *targets]


def _scored(score: float, text: str, width: int) -> str:
    """Return a cell with a probability, and beside it a text in as many lines as it needs."""
    lines = textwrap.fill(text, width - SCORE_WIDTH - len(INDENT)).split("\n")
    scores = [probability(score), *[""] * (len(lines) - 1)]
    return "\n".join(
        f"{shown:>{SCORE_WIDTH}}  {line}" for shown, line in zip(scores, lines, strict=True)
    )


def _rank(target: Target) -> str:
    """Return the rank of a target, or why it has none."""
    if target.rank is None:
        return f"not one token: {' '.join(target.pieces) or 'nothing is left of it'}"
    # The token is named if it is not the one that the tokenizer would make of the word there.
    form = "" if target.pieces == (target.token_str,) else f", as {target.token_str}"
    return f"rank {target.rank:,}{form}"


def _visible(text: str) -> str:
    """Return the text, quoted and escaped if it would be invisible or break the lines."""
    breaks = any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)
    return repr(text) if breaks or not text.strip() else text
