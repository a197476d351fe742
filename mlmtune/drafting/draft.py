"""A config that is drafted for text and a model, with the reason for each setting beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlmtune.config import Config
from mlmtune.config_loading import load_config_text
from mlmtune.console import Console
from mlmtune.drafting.places import run_name, sources_at
from mlmtune.drafting.sizing import Choice, Machine, ModelSize, TextSize, choose
from mlmtune.locations import cache_directory
from mlmtune.modeling.locating import locate_model
from mlmtune.modeling.tokenizer import load_tokenizer
from mlmtune.printable import counted
from mlmtune.tokens.opening import open_store
from mlmtune.training.preparation import find_corpus
from mlmtune.yaml_document import dump

NAME = "the drafted config"
"""What messages call it, as they would a file."""

GOES_ON = Choice("corpus", "on_error", "skip", "broken records are left out, and counted")
"""One broken record does not end a first try."""


@dataclass(frozen=True)
class Draft:
    """A config that was drafted.

    Attributes:
        config: The config.
        text: The same as YAML with comments, which loads as an equal config.
        reason: What it was drafted for, in words.
    """

    config: Config
    text: str
    reason: str


def draft_config(
    places: Sequence[str], model: str, overrides: Sequence[str], console: Console
) -> Draft:
    """Draft a config for a first run. The text is read and tokenized, which the run needs anyway.

    Args:
        places: Where the text is; see `sources_at`.
        model: A folder, a name on the hub, or `package://NAME/FOLDER`.
        overrides: Settings of the user, as `section.key=value`, which the others go along with.
        console: Shows what takes time.

    Raises:
        MlmtuneError: The text or the model cannot be read, or a setting is wrong.
    """
    settings: dict[str, dict[str, Any]] = {
        "run": {"output_dir": f"runs/{run_name(places)}"},
        "model": {"name_or_path": model},
        "corpus": {
            "sources": sources_at(places, cache_directory(None, "git"), console.say),
            GOES_ON.key: GOES_ON.value,
        },
    }
    given = load_config_text(dump(settings), NAME, overrides)
    text = find_corpus(given, console)
    folder = locate_model(given.model.name_or_path, given.model.revision)
    size = TextSize.of(open_store(text, load_tokenizer(folder)))
    machine = Machine.here()
    choices = [GOES_ON, *choose(given, size, ModelSize.of(folder.path), machine)]
    for choice in choices:
        settings.setdefault(choice.section, {})[choice.key] = choice.value
    config = load_config_text(dump(settings), NAME, overrides)
    return Draft(
        config,
        commented(config.model_dump(exclude_unset=True), choices),
        f"{counted(size.num_documents, 'document')} ({size.num_tokens:,} tokens) and "
        f"{machine.describe()}",
    )


def commented(settings: Mapping[str, Mapping[str, Any]], choices: Sequence[Choice]) -> str:
    """Return settings as YAML, with the reason beside each value that was chosen."""
    reasons = {(each.section, each.key): each for each in choices}
    lines = []
    for section, values in settings.items():
        lines.append(f"{section}:")
        for key, value in values.items():
            chosen = reasons.get((section, key))
            written = dump({key: value}).splitlines()
            if chosen is not None and chosen.value == value:
                written[0] = f"{written[0]:<28}  # {chosen.why}"
            lines += [f"  {line}" for line in written]
        lines.append("")
    return "\n".join(lines)
