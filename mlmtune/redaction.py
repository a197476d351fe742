"""Keeping secrets out of what is written and printed.

Secrets are never asked for in a config. They get into it all the same: in a URL, in a comment, in
the text of an error. So whatever leaves the program passes through here.
"""

import html
import json
import os
import re
from typing import Any

REDACTED = "[redacted]"

SHORTEST_SECRET = 8
"""A shorter value of a variable is a switch or a number, not a key, and stands everywhere."""
SURELY_A_SECRET = 16
"""So is a shorter one without a digit: `postgres` may be a password, and much else is called so."""

_SECRET_VARIABLE = re.compile(
    r"(^|_)(TOKEN|(API)?KEY|SECRET|PASS|PASS(WORD|WD|PHRASE)|PWD|CREDENTIAL|AUTH"
    r"|CONNECTION_STRING)S?$",
    re.IGNORECASE,
)
_NO_SECRETS = ("PWD", "OLDPWD")

# By what their issuers begin them with: Hugging Face, GitHub, GitLab, OpenAI and its like, AWS,
# Slack.
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|sk-(?:[a-z]+-)?[A-Za-z0-9]{20,}|A[KS]IA[0-9A-Z]{16}|(?:xox[abeprs]|xapp)-[\w-]{10,})"
)
_USER = re.compile(r"(?<=://)[^\s/@\"'<>\\]*:[^\s/@\"'<>\\]*@")
_WEB_USER = re.compile(r"(?<=https://)[^\s/@\"'<>\\]*@|(?<=http://)[^\s/@\"'<>\\]*@")
_QUERY = re.compile(r"(https?://[^\s?#'\")]+)[?#]\S*?(?=[,'\")}\]]*(?:\s|$))")


def without_secrets(text: str) -> str:
    """A text without the values of secret variables, access tokens, and passwords in URLs.

    A variable is secret by its name: `HF_TOKEN`, `WANDB_API_KEY`, `AWS_SECRET_ACCESS_KEY`.
    """
    for value in _secret_values():
        text = text.replace(value, REDACTED)
    return _WEB_USER.sub("", _USER.sub("", _SHAPES.sub(REDACTED, text)))


def without_query(text: str) -> str:
    """A text without the queries of the web addresses in it: signatures of signed URLs."""
    return _QUERY.sub(r"\1", text)


def redacted(value: Any) -> Any:
    """The same nested value; of its texts, what `without_query` and `without_secrets` leave."""
    if isinstance(value, str):
        return without_secrets(without_query(value))
    if isinstance(value, dict):
        return {key: redacted(inner) for key, inner in value.items()}
    return [redacted(inner) for inner in value] if isinstance(value, list) else value


def _is_long_enough(value: str) -> bool:
    has_digit = any(character.isdigit() for character in value)
    return len(value) >= (SHORTEST_SECRET if has_digit else SURELY_A_SECRET)


def _secret_values() -> list[str]:
    """As text, as JSON and as HTML have them; the longest first, as one may begin with another."""
    values = {
        form
        for name, value in os.environ.items()
        if _is_long_enough(value) and name not in _NO_SECRETS and _SECRET_VARIABLE.search(name)
        for form in _forms(value)
    }
    return sorted(values, key=len, reverse=True)


def _forms(value: str) -> tuple[str, ...]:
    in_json = (json.dumps(value, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False))
    return value, *in_json, html.escape(value)
