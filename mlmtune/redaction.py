"""Keeping secrets out of what is written and printed.

Secrets are never asked for in a config. They get into it all the same: in a URL, in a comment, in
the text of an error. So whatever leaves the program passes through `without_secrets`, which takes
out known secrets and what is one by its looks. A query may be a signature or harmless, so it is
taken out only where a URL is named: of a whole URL by `public_location`, and of the URLs in the
text of another program by `without_queries`.
"""

import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

REDACTED = "[redacted]"

SHORTEST_SECRET = 8
"""A shorter value of a variable is a switch or a number, not a key, and is found everywhere."""
SURELY_A_SECRET = 16
"""So is a shorter one without a digit: `postgres` may be a password, and much else is called so."""


def without_secrets(text: str) -> str:
    """A text without secrets: known ones, and what is one by its looks.

    Known are the values of variables with a secret's name (`HF_TOKEN`, `PGPASSWORD`), and what
    `remember_secrets` has found. By their looks: access tokens, account keys, bearer headers,
    signatures, and passwords in URLs.
    """
    for secret in _known_secrets(tuple(os.environ.items()), frozenset(_remembered)):
        text = text.replace(secret, REDACTED)
    text = _SHAPES.sub(REDACTED, text)
    text = _AUTHORIZATION.sub(rf"\1{REDACTED}", text)
    text = _ASSIGNMENT.sub(_without_assigned, text)
    return _URL_IN_TEXT.sub(lambda found: _without_password(found[0]), text)


def remember_secrets(settings: Any) -> None:
    """Note the secrets within settings, so that this process writes them nowhere.

    Args:
        settings: a nested value; the URLs in it, and what is found under the names of secrets.
    """
    _remembered.update(_secrets_in(settings))


def redacted(value: Any) -> Any:
    """The same nested value without secrets in its texts, nor queries in its URLs."""
    if isinstance(value, str):
        return without_secrets(public_location(value) if is_url(value) else without_queries(value))
    if isinstance(value, dict):
        return {key: redacted(inner) for key, inner in value.items()}
    return [redacted(inner) for inner in value] if isinstance(value, list) else value


# ------------------------------------------------------------------------------ known secrets

_remembered: set[str] = set()

_SECRET_WORDS = frozenset((
    "token", "key", "keys", "secret", "secrets", "pass", "password", "passwords", "passwd",
    "passphrase", "pwd", "credential", "credentials", "auth", "authorization", "sas", "pat",
    "apikey", "apikeys", "cookie", "jwt", "bearer", "sig", "signature", "sshpass",
))  # fmt: skip
_SECRET_ENDINGS = ("password", "passwd", "passphrase", "secret", "apikey", "accesskey", "token")
_SECRET_PHRASES = ("connection_string", "api_tokens", "access_tokens", "auth_tokens")
# What tells something about a secret, and is none.
_HARMLESS_ENDINGS = frozenset((
    "count", "dir", "file", "folder", "host", "id", "length", "limit", "name", "path", "port",
    "sock", "socket", "timeout", "type",
))  # fmt: skip
_HARMLESS_NAMES = ("PWD", "OLDPWD")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def is_secret_name(name: str) -> bool:
    """Whether a variable or key of this name holds a secret: `MY_TOKEN_2`, `AccountKey`, `sig`.

    A number of tokens is none, nor is a word that merely begins alike: `tokenization`.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    if name in _HARMLESS_NAMES or not words or words[-1] in _HARMLESS_ENDINGS:
        return False
    return any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in words) or any(
        phrase in "_".join(words) for phrase in _SECRET_PHRASES
    )


@lru_cache(maxsize=1)
def _known_secrets(variables: tuple[tuple[str, str], ...], remembered: frozenset[str]) -> list[str]:
    """In every form that text has them in; the longest first, as one may begin with another."""
    values = {
        value
        for name, value in variables
        if is_secret_name(name) and _is_long_enough(value)
        # A path to a file with a secret is none.
        if not (value.startswith("/") and os.path.exists(value))
    }
    values.update(remembered, *(_secrets_in(value) for _, value in variables))
    return sorted({form for value in values for form in _forms(value)}, key=len, reverse=True)


def _secrets_in(value: Any) -> Iterator[str]:
    """The secrets in a nested value: in its URLs, and what is found under a secret's name."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, str) and is_secret_name(str(key)) and _is_long_enough(inner):
                yield inner
            yield from _secrets_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets_in(inner)
    elif isinstance(value, str):
        if is_url(value):
            yield from _secrets_of_url(value)
        for assigned in _ASSIGNMENT.finditer(value):
            if _is_long_enough(assigned[2]):
                yield assigned[2]
        if value.startswith("{"):  # as fsspec reads its options from variables
            try:
                yield from _secrets_in(json.loads(value))
            except ValueError:
                return


def _is_long_enough(value: str) -> bool:
    has_digit = any(character.isdigit() for character in value)
    return len(value) >= (SHORTEST_SECRET if has_digit else SURELY_A_SECRET)


def _forms(value: str) -> Iterator[str]:
    """A secret as it is, and as URLs, JSON and HTML have it."""
    plain = unquote(value)
    for form in {value, plain, quote(plain), quote(plain, safe=""), quote_plus(plain)}:
        yield form
        yield from (json.dumps(form, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False))
        yield html.escape(form)


# ------------------------------------------------------------------------- secrets by their looks

# By what their issuers begin them with: Hugging Face, GitHub, GitLab, OpenAI and its like, AWS,
# Slack. In JSON, the letter of an escaped line break may precede them.
_SHAPES = re.compile(
    r"(?:\b|(?<=\\[nrt]))(?:hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|sk-(?:[a-z]+-)?[A-Za-z0-9]{20,}|A[KS]IA[0-9A-Z]{16}"
    r"|(?:xox[abeprs]|xapp)-[\w-]{10,})"
)
_AUTHORIZATION = re.compile(
    r"((?:authorization[\"']*\s*[=:]\s*[\"']*(?:basic|bearer|digest|token|sharedkey)"
    r"|\bbearer(?=\s+(?=\S*[0-9])\S{8}))\s+)[^\s\"'\\<>&;,]+",
    re.IGNORECASE,
)
# `AccountKey=...;`, `"client_secret": "..."`, `?X-Amz-Signature=...`. Words that text is full of,
# such as `token` and `key` alone, say too little.
_ASSIGNMENT = re.compile(
    r"((?:(?:access|account|api|private|secret|subscription)[_-]?key"
    r"|(?:access|api|auth|hf|hub|refresh|sas|security|session)[_-]?token"
    r"|(?:aws|client|s3)[_-]?secret|passphrase|passwd|password|shared[_-]?access[_-]?signature"
    r"|x-(?:amz|goog)-(?:credential|signature)"
    r"|(?<![a-z])(?:sig|signature)(?==)|(?<![a-z])pwd(?==[^/~]))"
    r"[\"']?\s*[=:]\s*[\"']?)([^\s\"'\\<>&;,]+)",
    re.IGNORECASE,
)


def _without_assigned(found: re.Match[str]) -> str:
    return found[1] + (REDACTED if _is_long_enough(found[2]) else found[2])


# ------------------------------------------------------------------------------------------- URLs

_WEB = ("http", "https")
"""Where what follows a `?` or `#`, and what precedes an `@`, may be a secret whatever it is."""
_FILES = ("file", "local", "package")
"""Names on this machine, in which `?`, `#` and `@` are characters like any other."""
_WITHOUT_PASSWORDS = ("git", "github")
"""For fsspec, `ORGANISATION:REPOSITORY@REVISION` precedes the path."""

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://")
_LINK = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:::|://))")
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:\[\]]*)(?::[0-9]*)?")
_STORE_QUERY = re.compile(r"[?#](?=[\w.~%+-]+=)")
"""Outside the web a `?` may be a wildcard, and a `#` belong to a name."""

_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"<>\\]+")
_CLOSING = re.compile(r"[,;.'\")}\]]*$")
_LATE_QUERY = re.compile(r"(://[^\n]*?)\?[\w.~%+-]+=[^\s\"<>\\]*")
"""Of a URL that has what no URL may have, such as a space, in its path."""


class _Url(NamedTuple):
    """The parts of a URL, which make it up again: scheme://USER@HOST/PATH?QUERY.

    Attributes:
        scheme: as it is written.
        secret_user: what precedes the host, if it may be a secret.
        place: host and path, and a user that is none.
        query: with the sign that begins it; the fragment is part of it.
    """

    scheme: str
    secret_user: str
    place: str
    query: str


def is_url(location: str) -> bool:
    """Whether a text as a whole is a URL, or a chain of them (`simplecache::https://...`)."""
    return _SCHEME.match(_LINK.split(location)[-1]) is not None


def public_location(location: str) -> str:
    """A URL as people may see it: without password, query and fragment. A path stays as it is.

    Args:
        location: the whole of a URL, as the user wrote it, or of a chain with `::` between links.
    """
    return "::".join(
        link if url is None else f"{url.scheme}://{url.place}" for link, url in _links(location)
    )


def without_queries(text: str) -> str:
    """A text in which each URL is as `public_location` has it; for what other programs say."""
    return _LATE_QUERY.sub(r"\1", _URL_IN_TEXT.sub(_public_in_text, text))


def _public_in_text(found: re.Match[str]) -> str:
    # What closes a sentence or a bracket around a URL is no part of it.
    closing = _CLOSING.search(found[0])
    assert closing is not None
    public = public_location(found[0])
    return public if public.endswith(closing[0]) else public + closing[0]


def _without_password(location: str) -> str:
    return "::".join(
        link if url is None or not url.secret_user else f"{url.scheme}://{url.place}{url.query}"
        for link, url in _links(location)
    )


def _links(location: str) -> Iterator[tuple[str, _Url | None]]:
    """The links of a chain, which are one for a plain URL; None for one that is no URL."""
    scheme = _SCHEME.match(location)
    is_web = scheme is not None and scheme[1].lower() in _WEB
    # In the query of a web address, `::` are characters like any other.
    border = None if is_web else _LINK.search(location)
    link = location if border is None else location[: border.start()]
    yield link, None if scheme is None else _parsed(scheme[1], link[scheme.end() :])
    if border is not None:
        yield from _links(location[border.end() :])


def _parsed(scheme: str, rest: str) -> _Url | None:
    kind = scheme.lower()
    if kind in _FILES:
        return None
    try:
        netloc = urlsplit(f"{scheme}://{rest}").netloc
    except ValueError:
        netloc = "\n"
    if not rest.startswith(netloc):  # it is no URL, so that nobody can tell its parts
        user, _, after = rest.rpartition("@")
        return _Url(scheme, user, REDACTED, after)
    user, at, host = netloc.rpartition("@")
    tail = rest[len(netloc) :]
    if not _HOST.fullmatch(host) and "@" in tail and kind not in _WITHOUT_PASSWORDS:
        password, _, after = rest.rpartition("@")  # one with `/`, `?` or `#` in it
        url = _parsed(scheme, after)
        return None if url is None else url._replace(secret_user=password)
    border = re.search(r"[?#]", tail) if kind in _WEB else _STORE_QUERY.search(tail)
    path, query = (tail, "") if border is None else (tail[: border.start()], tail[border.start() :])
    if kind in _WEB or (":" in user and kind not in _WITHOUT_PASSWORDS):
        return _Url(scheme, user, host + path, query)
    return _Url(scheme, "", user + at + host + path, query)


def _secrets_of_url(location: str) -> Iterator[str]:
    """What `public_location` takes out, where it is long enough to be told from words.

    The values of a query also one by one, because each library quotes them in its own way.
    """
    for _, url in _links(location):
        if url is None:
            continue
        query = url.query[1:]
        user, _, password = url.secret_user.partition(":")
        yield from filter(_is_long_enough, (password or user, query))
        for name, value in parse_qsl(query.replace("#", "&")):
            if _is_long_enough(value) and (is_secret_name(name) or len(value) >= SURELY_A_SECRET):
                yield value
