"""Removal of secrets from everything that is written and printed.

No config asks for a secret, but secrets get into configs nevertheless: in a URL, in a comment, in
the text of an error. So whatever leaves the program passes through `without_secrets`, which removes
known secrets and what looks like one. The query of a URL may be a signature or harmless, so it is
removed only where a URL is named: from a single URL by `public_location`, and from the URLs in the
messages of other programs by `without_queries`.
"""

import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

REDACTED = "[redacted]"

SHORTEST_SECRET = 8
"""A shorter value of a variable is a switch or a number, not a key, and occurs everywhere."""
SURELY_A_SECRET = 16
"""The limit for values without a digit: `postgres` may be a password, but mostly is just a name."""


def without_secrets(text: str) -> str:
    """Return a text without known secrets and without what looks like one.

    Known are the values of environment variables that are named like secrets (`HF_TOKEN`,
    `PGPASSWORD`), and those that `remember_secrets` has found. Access tokens, account keys, bearer
    headers, signatures and passwords in URLs are recognised by their form.
    """
    for secret in _known_secrets(tuple(os.environ.items()), frozenset(_remembered)):
        text = text.replace(secret, REDACTED)
    text = _SHAPES.sub(REDACTED, text)
    text = _AUTHORIZATION.sub(rf"\1{REDACTED}", text)
    text = _ASSIGNMENT.sub(_without_assigned, text)
    return _URL_IN_TEXT.sub(lambda match: _without_password(match[0]), text)


def remember_secrets(settings: Any) -> None:
    """Remember the secrets in a nested value, so that this process writes them nowhere.

    These are the credentials in its URLs, and the values of keys that are named like secrets.
    """
    _remembered.update(_secrets_in(settings))


def redacted(value: Any) -> Any:
    """Return a nested value without the secrets in its texts and the queries of its URLs."""
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
# Names with these endings tell something about a secret, but not the secret.
_HARMLESS_ENDINGS = frozenset((
    "count", "dir", "file", "folder", "host", "id", "length", "limit", "name", "path", "port",
    "sock", "socket", "timeout", "type",
))  # fmt: skip
_HARMLESS_NAMES = ("PWD", "OLDPWD")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def is_secret_name(name: str) -> bool:
    """Whether a variable or key of this name holds a secret: `MY_TOKEN_2`, `AccountKey`, `sig`.

    Not so `num_tokens`, which is a number, nor `tokenization`, which only begins alike.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    if name in _HARMLESS_NAMES or not words or words[-1] in _HARMLESS_ENDINGS:
        return False
    has_secret_word = any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in words)
    return has_secret_word or any(phrase in "_".join(words) for phrase in _SECRET_PHRASES)


# Cached, because each printed line asks, and neither variables nor secrets change often.
@lru_cache(maxsize=1)
def _known_secrets(variables: tuple[tuple[str, str], ...], remembered: frozenset[str]) -> list[str]:
    """Return the secrets in every form that they have in text."""
    values = {
        value
        for name, value in variables
        if is_secret_name(name) and _is_long_enough(value)
        # The path of a file with a secret is no secret.
        if not (value.startswith("/") and os.path.exists(value))
    }
    values.update(remembered, *(_secrets_in(value) for _, value in variables))
    # The longest first, because one may begin with another.
    return sorted({form for value in values for form in _forms(value)}, key=len, reverse=True)


def _secrets_in(value: Any) -> Iterator[str]:
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
        yield from filter(_is_long_enough, (match[2] for match in _ASSIGNMENT.finditer(value)))
        if value.startswith("{"):  # fsspec reads its options from variables with JSON
            with suppress(ValueError):
                yield from _secrets_in(json.loads(value))


def _is_long_enough(value: str) -> bool:
    has_digit = any(character.isdigit() for character in value)
    return len(value) >= (SHORTEST_SECRET if has_digit else SURELY_A_SECRET)


def _forms(value: str) -> Iterator[str]:
    """Yield a secret as it is, and as URLs, JSON and HTML contain it."""
    plain = unquote(value)
    for form in {value, plain, quote(plain), quote(plain, safe=""), quote_plus(plain)}:
        yield form
        yield from (json.dumps(form, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False))
        yield html.escape(form)


# -------------------------------------------------------------------------- secrets by their form

# The prefixes of Hugging Face, GitHub, GitLab, OpenAI and the like, AWS, and Slack. In JSON, the
# letter of an escaped line break may precede them.
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
# `AccountKey=...;`, `"client_secret": "..."`, `?X-Amz-Signature=...`. `token` or `key` alone would
# match too much ordinary text.
_ASSIGNMENT = re.compile(
    r"((?:(?:access|account|api|private|secret|subscription)[_-]?key"
    r"|(?:access|api|auth|hf|hub|refresh|sas|security|session)[_-]?token"
    r"|(?:aws|client|s3)[_-]?secret|passphrase|passwd|password|shared[_-]?access[_-]?signature"
    r"|x-(?:amz|goog)-(?:credential|signature)"
    r"|(?<![a-z])(?:sig|signature)(?==)|(?<![a-z])pwd(?==[^/~]))"
    r"[\"']?\s*[=:]\s*[\"']?)([^\s\"'\\<>&;,]+)",
    re.IGNORECASE,
)


def _without_assigned(match: re.Match[str]) -> str:
    return match[1] + (REDACTED if _is_long_enough(match[2]) else match[2])


# ------------------------------------------------------------------------------------------- URLs

_WEB = ("http", "https")
"""In these, anything after a `?` or `#`, and anything before an `@`, may be a secret."""
_FILES = ("file", "local", "package")
"""These name files on this machine, in which `?`, `#` and `@` are ordinary characters."""
_WITHOUT_PASSWORDS = ("git", "github")
"""In these, fsspec puts `ORGANISATION:REPOSITORY@REVISION` before the path."""

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://")
_LINK = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:::|://))")
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:\[\]]*)(?::[0-9]*)?")
_STORE_QUERY = re.compile(r"[?#](?=[\w.~%+-]+=)")
"""A query outside the web, where a `?` may also be a wildcard, and a `#` part of a name."""

_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"<>\\]+")
_LATE_QUERY = re.compile(r"(://[^\n]*?)\?[\w.~%+-]+=[^\s\"<>\\]*")
"""The query of an invalid URL, such as one with a space in its path."""


class _Url(NamedTuple):
    """The parts of a URL, from which it can be put together again: SCHEME://USER@HOST/PATH?QUERY."""

    scheme: str
    secret_user: str
    """What precedes the host, if it may be a secret."""
    address: str
    """The host and the path, and a user that is not secret."""
    query: str
    """The query and the fragment, with the sign that begins them."""


def is_url(location: str) -> bool:
    """Whether a text as a whole is a URL, or a chain of them (`simplecache::https://...`)."""
    *_, (_, last) = _links(location)
    return last is not None


def public_location(location: str) -> str:
    """Return a URL without password, query and fragment, so that it can be shown.

    Args:
        location: A URL as the user wrote it, or a chain of URLs with `::` between them. A path is
            returned unchanged.
    """
    return "::".join(
        link if url is None else f"{url.scheme}://{url.address}" for link, url in _links(location)
    )


def without_queries(text: str) -> str:
    """Return a text with each URL as `public_location` returns it, for messages of programs."""
    return _LATE_QUERY.sub(r"\1", _URL_IN_TEXT.sub(_public_in_text, text))


def _public_in_text(match: re.Match[str]) -> str:
    # A full stop or bracket after a URL is not part of it.
    closing = match[0][len(match[0].rstrip(",;.'\")}]")) :]
    public = public_location(match[0])
    return public if public.endswith(closing) else public + closing


def _without_password(location: str) -> str:
    return "::".join(
        link if url is None or not url.secret_user else f"{url.scheme}://{url.address}{url.query}"
        for link, url in _links(location)
    )


def _links(location: str) -> Iterator[tuple[str, _Url | None]]:
    """Yield the links of a chain, and the parts of each that is a URL. A plain URL is one link."""
    scheme = _SCHEME.match(location)
    is_web = scheme is not None and scheme[1].lower() in _WEB
    # In the query of a web address, `::` are ordinary characters.
    link, *rest = [location] if is_web else _LINK.split(location, maxsplit=1)
    yield link, None if scheme is None else _parsed(scheme[1], link[scheme.end() :])
    if rest:
        yield from _links(rest[0])


def _parsed(scheme: str, rest: str) -> _Url | None:
    kind = scheme.lower()
    if kind in _FILES:
        return None
    try:
        netloc = urlsplit(f"{scheme}://{rest}").netloc
    except ValueError:
        netloc = "\n"
    if not rest.startswith(netloc):  # not a URL, so its parts are unknown
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
    """Yield what `public_location` removes, if it is long enough not to be an ordinary word."""
    for _, url in _links(location):
        if url is None:
            continue
        query = url.query[1:]
        user, _, password = url.secret_user.partition(":")
        yield from filter(_is_long_enough, (password or user, query))
        # Also one by one, because each library quotes the values of a query in its own way.
        for name, value in parse_qsl(query.replace("#", "&")):
            if _is_long_enough(value) and (is_secret_name(name) or len(value) >= SURELY_A_SECRET):
                yield value
