import html
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.redaction import REDACTED, redacted, without_query, without_secrets

SIGNED = "?X-Amz-Signature=abc123&X-Amz-Expires=60"
SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "hub_token",
        "DB_PASS",
        "OPENAI_APIKEY",
        "SSH_PASSPHRASE",
        "AZURE_STORAGE_CONNECTION_STRING",
    ],
)
def test_the_value_of_a_secret_variable_is_taken_out_wherever_it_stands(monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    assert without_secrets(f"path: /data/{SECRET}/x") == f"path: /data/{REDACTED}/x"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PWD", "/srv/there/1"), ("TOKENIZERS_PARALLELISM", "false-or-true"), ("API_KEY", "short"),
     ("KEYBOARD", "qwertyuiop")],
)  # fmt: skip
def test_other_variables_are_left_alone(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert without_secrets(f"see {value} there") == f"see {value} there"


def test_what_is_short_and_has_no_digit_is_a_word(monkeypatch):
    monkeypatch.setenv("POSTGRES_PASSWORD", "postgres")
    assert without_secrets("see postgres there") == "see postgres there"
    monkeypatch.setenv("POSTGRES_PASSWORD", "postgres1")
    assert without_secrets("see postgres1 there") == f"see {REDACTED} there"


def test_nested_values_keep_their_shape(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    value = {"a": [f"x {SECRET}", 1, None], "b": {"c": "https://host/a?sig=1"}}
    assert redacted(value) == {"a": [f"x {REDACTED}", 1, None], "b": {"c": "https://host/a"}}


def test_it_is_found_in_json_and_html_too(monkeypatch):
    value = 'a"b\\c<d>&é-secret'
    monkeypatch.setenv("MY_PASSWORD", value)
    for text in (json.dumps({"x": value}), json.dumps(value, ensure_ascii=False),
                 html.escape(value), value):  # fmt: skip
        assert "secret" not in without_secrets(text)


def test_of_two_secrets_of_which_one_begins_with_the_other_nothing_is_left(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "abcdefg8")
    monkeypatch.setenv("B_TOKEN", "abcdefg8ijkl")
    assert without_secrets("abcdefg8ijkl abcdefg8") == f"{REDACTED} {REDACTED}"


@pytest.mark.parametrize(
    "token",
    ["hf_" + "aB3" * 11, "ghp_" + "a1B2" * 9, "github_pat_" + "a1_" * 12, "glpat-" + "x-9" * 7,
     "sk-" + "abcd" * 8, "sk-proj-" + "a1B2" * 6, "AKIA" + "A1B2" * 4, "ASIA" + "A1B2" * 4,
     "xapp-1-A123-456-abc", "xoxb-123456789012-abc"],
)  # fmt: skip
def test_tokens_are_known_by_how_they_begin(token):
    assert without_secrets(f"# token {token}.") == f"# token {REDACTED}."


def test_names_that_begin_alike_are_left_alone():
    for name in ("~/sk-learn-documentation-pages", "hf_internal_testing/tiny", "AKIAB", "ghp_x"):
        assert without_secrets(name) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pass@host/a b", "https://host/a b"),
        ("https://token@host/a", "https://host/a"),
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("ssh://git@host/a", "ssh://git@host/a"),  # a user alone is no secret there
        ("mail me@host or https://host/@me", "mail me@host or https://host/@me"),
    ],
)
def test_passwords_in_urls_are_taken_out(text, expected):
    assert without_secrets(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"https://host/a.md{SIGNED}", "https://host/a.md"),
        (f"https://host/a.md{SIGNED}, docs/?.md", "https://host/a.md, docs/?.md"),
        (f"403, url='https://host/a.md{SIGNED}'", "403, url='https://host/a.md'"),
        ("https://host/a.md#part, x", "https://host/a.md, x"),
        (f"{{path: https://host/a.md{SIGNED}}}", "{path: https://host/a.md}"),
        ("data/?.md", "data/?.md"),
        ("s3://bucket/?.md", "s3://bucket/?.md"),
    ],
)
def test_queries_are_taken_out_of_what_people_read(text, expected):
    assert without_query(text) == expected


@given(st.recursive(st.text() | st.sampled_from(["https://a:b@c/d", "hf_" + "a" * 20]),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_json_stays_json(value):
    """What is written passes through it as text."""
    json.loads(without_secrets(json.dumps(value)))
    json.loads(without_secrets(json.dumps(value, ensure_ascii=False, indent=1)))
