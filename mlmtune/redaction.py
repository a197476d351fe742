"""Keeping secrets out of what is written and printed.

Secrets are never asked for in a config. They get into it all the same: in a URL, in a comment, in
the text of an error. So whatever leaves the program passes through here.
"""

import html
import json
import os
import re

REDACTED = "[redacted]"

SHORTEST_SECRET = 8
"""A shorter value of a variable is a switch or a number, not a key, and stands everywhere."""

_SECRET_VARIABLE = re.compile(
    r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|PASSWD|PWD|CREDENTIALS?|AUTH)S?$", re.IGNORECASE
)
_NO_SECRETS = ("PWD", "OLDPWD")

# By what their issuers begin them with: Hugging Face, GitHub, GitLab, OpenAI and its like, AWS,
# Slack.
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|xox[abeprs]-[\w-]{10,})"
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


def _secret_values() -> list[str]:
    """As text, as JSON and as HTML have them; the longest first, as one may begin with another."""
    values = {
        form
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_SECRET
        and name not in _NO_SECRETS
        and _SECRET_VARIABLE.search(name)
        for form in _forms(value)
    }
    return sorted(values, key=len, reverse=True)


def _forms(value: str) -> tuple[str, ...]:
    in_json = (json.dumps(value, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False))
    return value, *in_json, html.escape(value)
