"""Requests to the Hugging Face hub, and the environment variables that they depend on."""

import errno
import os
from collections.abc import Callable
from typing import Literal, TypeVar

from mlmtune.errors import ConfigError, HubError
from mlmtune.redaction import without_secrets

HUB_TIMEOUT_SECONDS = 5.0
"""How long the hub may take to answer before it counts as out of reach."""

_LOCATIONS = ("HF_ENDPOINT", "HF_HOME", "HF_DATASETS_CACHE")
_TRUE = ("1", "ON", "YES", "TRUE")

T = TypeVar("T")


class OutOfReach(Exception):
    """The hub does not answer, or no request may be sent. A cached copy may still be used."""


def environment_notes() -> list[str]:
    """Return the variables that decide where models and datasets come from, without secrets."""
    notes = [
        f"{name}={without_secrets(os.environ[name])}" for name in _LOCATIONS if os.getenv(name)
    ]
    if os.getenv("HF_HUB_OFFLINE", "").upper() in _TRUE:
        notes.append("HF_HUB_OFFLINE is set")
    if os.getenv("HF_TOKEN"):
        notes.append("HF_TOKEN is set")
    return notes


def endpoint() -> str:
    """Return the URL that requests are sent to, without secrets."""
    # Imported where it is used, because `mlmtune --help` must not wait for it.
    from huggingface_hub import constants

    return without_secrets(constants.ENDPOINT)


def is_offline() -> bool:
    """Whether no request may be sent to the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def looks_like_path(location: str) -> bool:
    """Whether a location is meant as a path on this machine."""
    return location.startswith((".", "/", "~")) or location.count("/") > 1


def is_name(location: str) -> bool:
    """Whether a location can be a name on the hub, and does not look like a path."""
    if looks_like_path(location):
        return False
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(location)
    except HFValidationError:
        return False
    return True


def ask(
    request: Callable[[], T],
    kind: Literal["model", "dataset"],
    name: str,
    revision: str | None,
    key: str,
) -> T:
    """Send a request to the hub, and explain in words what goes wrong with it.

    Args:
        request: Sends the request, with a timeout.
        kind: What the request is about.
        name: The name of the model or dataset on the hub.
        revision: The branch, tag or commit; None for the default branch.
        key: The setting or the option that holds the name, for messages.

    Raises:
        OutOfReach: There is no answer; the message says why.
        ConfigError: The hub does not allow such a name.
        HubError: There is no such model, dataset or revision, or access to it is refused.
        OSError: The disk is too full for what is downloaded.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if is_offline():
        raise OutOfReach("HF_HUB_OFFLINE is set")
    try:
        return request()
    except HFValidationError as error:
        raise ConfigError(f"{key}: {name} is neither a folder nor a name on the hub") from error
    except GatedRepoError as error:
        raise HubError(
            f"{key}: {name} is gated; ask for access on its page and set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        section = key.rpartition(".")[0]
        raise HubError(f"{section}.revision: {name} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{key}: there is no folder {name}, and no such {kind} on {endpoint()} "
            "(or it is private: set HF_TOKEN)"
        ) from error
    except Exception as error:  # the client's network errors share no base between versions
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the disk is full, for which there is a better message
        answer = getattr(error, "response", None)
        why = type(error).__name__ if answer is None else f"HTTP status {answer.status_code}"
        raise OutOfReach(f"{endpoint()} cannot be reached ({why})") from error
