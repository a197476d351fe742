"""A repository on the Hugging Face hub: opening it, and committing a folder to it.

A push is one commit of the whole folder, so a repository never holds half a model. The hub keeps
the files that a failed attempt has uploaded, so they are not sent again.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

from mlmtune.errors import ConfigError, HubError
from mlmtune.hub import endpoint
from mlmtune.locations import MERGE_PAGE, MODEL_RECORDS

WAITS_SECONDS = (2.0, 8.0, 30.0)
"""Waits between attempts. Within an attempt, the hub's client itself retries what it can."""

_PASSING = (408, 409, 412, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that may pass; 409 and 412 mean that somebody else has just committed."""

_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2")
"""The HTTP packages that versions of the hub's client use."""

HERE = 'model = "."  # this folder'
"""The line of a card's snippet that says where the model is before it has a name on the hub."""

T = TypeVar("T")


class PushFailed(HubError):
    """The error of a push that committed nothing.

    Args:
        reason: The cause, and how to fix it.
        may_pass: Whether another attempt may succeed, because the hub or the network is at fault.
    """

    def __init__(self, reason: str, *, may_pass: bool) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


@dataclass(frozen=True)
class HubRepository:
    """A model repository that exists on the hub; its name is `OWNER/NAME`."""

    name: str
    is_private: bool

    @property
    def url(self) -> str:
        return f"{endpoint()}/{self.name}"


def open_repository(name: str, *, is_private: bool, say: Callable[[str], None]) -> HubRepository:
    """Create a model repository, or find it if it exists.

    Args:
        name: `NAME` or `OWNER/NAME`.
        is_private: Whether it is created as private, and refused if it exists and is public.
        say: Receives a line for each further attempt.

    Raises:
        ConfigError: The name is not valid, or a repository that must be private is public.
        PushFailed: The hub cannot be reached, or refuses.
    """
    api = HfApi()

    def find() -> HubRepository:
        made = api.create_repo(name, private=is_private, exist_ok=True)
        info = api.repo_info(made.repo_id)
        try:  # create_repo() succeeds with a read-only token if the repository exists
            api.auth_check(made.repo_id, write=True)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # mirrors may not have this
                raise
        return HubRepository(made.repo_id, bool(info.private))

    try:
        repository = _persistently(find, say)
    except HFValidationError as error:
        raise ConfigError(
            f"{name} is not a valid name of a repository; give NAME or ORGANISATION/NAME, of "
            "letters, digits and -_."
        ) from error
    if is_private and not repository.is_private:
        raise ConfigError(
            f"{repository.name} is public, and this push is private; give --public (hub.private: "
            "false), or another name"
        )
    return repository


def files_to_push(folder: Path) -> list[Path]:
    """Return the files of a model, without other models that were made of it in folders inside.

    The records of what it was made of name paths of this machine, and stay here.
    """
    inside = {file.parent for name in MODEL_RECORDS for file in folder.rglob(name)} - {folder}
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and file.name not in (*MODEL_RECORDS, MERGE_PAGE)
        and inside.isdisjoint(file.parents)
    ]


def push_folder(
    repository: HubRepository, folder: Path, message: str, say: Callable[[str], None]
) -> str:
    """Commit the files of a model's folder, and return the commit's hash.

    Other files of the repository stay. The snippet in the card then loads the model from the hub.
    `say` receives a line for each further attempt.

    Raises:
        ConfigError: README.md is not UTF-8.
        PushFailed: The hub cannot be reached, or refuses.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of empty commits
    api = HfApi()

    def commit() -> str:
        # New operations for each attempt: an operation remembers what it has sent.
        operations = list(_operations(folder, repository.name))
        try:
            made = api.create_commit(repository.name, operations, commit_message=message)
        except Exception as error:
            if not _lacks_xet(error):
                raise
            constants.HF_HUB_DISABLE_XET = True  # for all further attempts, too
            return commit()
        return str(made.oid)

    return _persistently(commit, say)


def _lacks_xet(error: BaseException) -> bool:
    """Whether the hub is a mirror without Xet storage, which the client takes for granted."""
    said = str(error)
    return "xet-write-token" in said and "404" in said and not constants.HF_HUB_DISABLE_XET


def _operations(folder: Path, repository: str) -> Iterator[CommitOperationAdd]:
    for path in files_to_push(folder):
        content: Any = path
        if path.name == "README.md":
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ConfigError(f"{path}: is not UTF-8; save it as that") from error
            content = text.replace(HERE, f'model = "{repository}"').encode()
        yield CommitOperationAdd(path.relative_to(folder).as_posix(), content)


def without_bars() -> None:
    """Turn off the hub client's progress bars, which would break this program's lines."""
    disable_progress_bars()


def _persistently(request: Callable[[], T], say: Callable[[str], None]) -> T:
    """Make a request, up to four times, and return its result."""
    waits = iter(WAITS_SECONDS)
    while True:
        try:
            return request()
        except (HFValidationError, ConfigError):
            raise
        except Exception as error:
            failed, wait = _explained(error), next(waits, None)
            if failed is None:
                raise
            if wait is None or not failed.may_pass:
                raise failed from error
            say(f"{failed}; trying again in {wait:.0f} s")
            time.sleep(wait)


def _explained(error: BaseException) -> PushFailed | None:
    """Put an error into words; None if it has nothing to do with the hub."""
    chain = list(_causes(error))
    if any(isinstance(e, OfflineModeIsEnabled) for e in chain):
        return PushFailed("HF_HUB_OFFLINE is set; unset it", may_pass=False)
    answers = [e for e in chain if getattr(e, "response", None) is not None]
    if isinstance(error, ValueError) and answers and error is not answers[0]:
        # The client lets the hub check README.md before it sends anything.
        said = " ".join(str(error).split())
        return PushFailed(f"{endpoint()} does not take the model card ({said})", may_pass=False)
    if answers:
        return _answered(answers[0])
    if any(isinstance(e, json.JSONDecodeError) for e in chain):
        return PushFailed(
            f"{endpoint()} does not answer as a hub does; it may be a proxy", may_pass=True
        )
    is_network = any(
        type(e).__module__.split(".")[0] in _CLIENTS
        or isinstance(e, ConnectionError | TimeoutError)
        for e in chain
    )
    if not is_network:
        return None
    why = type(chain[-1]).__name__
    return PushFailed(f"{endpoint()} cannot be reached ({why})", may_pass=True)


def _answered(error: Any) -> PushFailed:
    """Put into words why the hub has refused a request."""
    status = int(error.response.status_code)
    said = " ".join(str(getattr(error, "server_message", None) or "").split())[:200]
    answer = f"{endpoint()} answers with HTTP status {status}{f' ({said})' if said else ''}"
    if status == 401:
        token = "the token in use is not valid" if get_token() else "there is no token"
        answer += f": {token}; set HF_TOKEN to one that may write, or log in by hf auth login"
    elif status == 403:
        answer += ": the token may not write there; give one that may, or another owner"
    return PushFailed(answer, may_pass=status in _PASSING)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
