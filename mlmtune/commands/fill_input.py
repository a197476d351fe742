"""The words and sentences of `mlmtune fill`, which are read before any library is imported."""

import sys
from pathlib import Path

from mlmtune.errors import ConfigError


def listed_words(targets: str | None) -> list[str]:
    """Return the words of `--targets`, each once.

    Raises:
        ConfigError: The option is given without a word.
    """
    words = [word.strip() for word in (targets or "").split(",") if word.strip()]
    if targets is not None and not words:
        raise ConfigError("--targets: it contains no word; give some, such as cluster,node")
    return list(dict.fromkeys(words))


def given_sentences(texts: list[str], text_file: Path | None) -> list[str] | None:
    """Return the sentences to fill; None if a person at a terminal must be asked for them.

    Args:
        texts: The arguments of the command; `-` is standard input.
        text_file: The value of `--text-file`; `-` is standard input.

    Raises:
        ConfigError: There is no sentence, or a file cannot be read.
    """
    if not texts and text_file is None:
        if sys.stdin is not None and sys.stdin.isatty():
            return None
        texts = ["-"]
    sentences: list[str] = []
    for text in texts:
        sentences += _read_lines("-", "standard input") if text == "-" else [text]
    if text_file is not None:
        sentences += _read_lines(str(text_file), f"--text-file {text_file}")
    if not sentences:
        raise ConfigError('nothing to fill; give a sentence, such as "Deploy the [MASK] first."')
    return sentences


def _read_lines(path: str, name: str) -> list[str]:
    """Return the lines of a file, or of standard input for `-`, that are not blank."""
    try:
        if path != "-":
            content = Path(path).read_bytes()
        else:
            content = b"" if sys.stdin is None else sys.stdin.buffer.read()
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot be read ({error})") from error
    return [line for line in lines if line.strip()]
