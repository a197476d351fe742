import html
import json
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlmtune.redaction import (
    REDACTED,
    public_location,
    redacted,
    remember_secrets,
    without_queries,
    without_secrets,
)

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
        "STORAGE_SAS",
        "PGPASSWORD",
        "MY_TOKEN_2",
        "AWS_SECRET_ACCESS_KEY_OLD",
        "azureAccountKey",
    ],
)
def test_the_value_of_a_secret_variable_is_removed_wherever_it_is(monkeypatch, name):
    monkeypatch.setenv(name, SECRET)
    assert without_secrets(f"path: /data/{SECRET}/x") == f"path: /data/{REDACTED}/x"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PWD", "/srv/there/1"), ("TOKENIZERS_PARALLELISM", "false-or-true"), ("API_KEY", "short"),
     ("KEYBOARD", "qwertyuiop"), ("SSH_AUTH_SOCK", "/tmp/agent/12345678"),
     ("MAX_TOKENS", "12345678"), ("GOOGLE_APPLICATION_CREDENTIALS", sys.executable)],
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
        (f"403, url='https://host/a(1).md{SIGNED}'", "403, url='https://host/a(1).md'"),
        ("(https://host/a.md#part), x", "(https://host/a.md), x"),
        (f"{{path: HTTPS://host/a.md{SIGNED}}}", "{path: HTTPS://host/a.md}"),
        (f"https://host/my file.md{SIGNED} is gone", "https://host/my file.md is gone"),
        (f"no simplecache::https://host/a{SIGNED}", "no simplecache::https://host/a"),
        ("data/?.md", "data/?.md"),
        ("s3://bucket/?.md", "s3://bucket/?.md"),
    ],
)
def test_queries_are_taken_out_of_what_other_programs_say(text, expected):
    assert without_queries(text) == expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (f"https://host/paren(1).txt{SIGNED}", "https://host/paren(1).txt"),
        (f"https://host/it's a \"file\".txt{SIGNED} x", "https://host/it's a \"file\".txt"),
        (f"HTTPS://me:pass@host:8080/%28ü{SIGNED}", "HTTPS://host:8080/%28ü"),
        ("https://host/a?x=1::y://z", "https://host/a"),
        ("https://me:a/b#c?d@host/x?y=1", "https://host/x"),
        ("http://[::1]:80/a?x=1", "http://[::1]:80/a"),
        ("https://[broken/a?x=1", f"https://{REDACTED}"),
        (f"zip://a(1).md::simplecache::https://host/a.zip{SIGNED}",
         "zip://a(1).md::simplecache::https://host/a.zip"),
        ("S3://key:sec/ret@bucket/a", "S3://bucket/a"),
        ("s3://bucket/part-?", "s3://bucket/part-?"),
        ("s3://arn:aws:s3:us-west-2:1:accesspoint/x", "s3://arn:aws:s3:us-west-2:1:accesspoint/x"),
        ("abfs://container@account/a?sv=1&sig=2", "abfs://container@account/a"),
        ("az://container/a#sig=2", "az://container/a"),
        ("memory://a/b#c", "memory://a/b#c"),
        ("sftp://me@host/a", "sftp://me@host/a"),
        ("gist://me:token@id/a", "gist://id/a"),
        ("github://org:repo@main/a", "github://org:repo@main/a"),
        ("file:///data/a#b?c=d", "file:///data/a#b?c=d"),
        ("/data/a?b=c", "/data/a?b=c"),
    ],
)  # fmt: skip
def test_a_location_keeps_all_but_what_may_be_a_secret(location, expected):
    assert public_location(location) == expected


CANARY = "cnry0451"
PATHS = st.text("abc/.~-_%28!$&'()*+,;=:@é ", max_size=12).map("/a".__add__)
QUERIES = st.text("abc/.~-_%28!$&'()*+,;=:@?", max_size=8)


@given(
    scheme=st.sampled_from(["http", "HTTPS", "simplecache::https", "zip://x(1)::http", "s3", "az"]),
    user=st.sampled_from(["", f"{CANARY}@", f"me:{CANARY}@", f"me:a/{CANARY}@"]),
    path=PATHS,
    mark=st.sampled_from("?#"),
    around=st.tuples(QUERIES, QUERIES),
)
@example("http", "", "/a ", "?", ("::", "::"))
def test_a_canary_survives_in_no_legal_form(scheme, user, path, mark, around):
    if scheme in ("s3", "az"):  # no web addresses: a user is harmless, and a query has a name
        user, around = user.replace(f"{CANARY}@", f"me:{CANARY}@"), ("sig=", around[1])
    elif "/" in user:
        user = ""  # is legal only where it is quoted
    url = f"{scheme}://{user}host{path}{mark}{around[0]}{CANARY}{around[1]}"
    assert CANARY not in public_location(url)
    assert CANARY not in json.dumps(redacted({"path": [url]}))
    if " " not in path:
        assert CANARY not in without_queries(f"cannot read ('{url}'): it is gone")


@pytest.mark.parametrize(
    "text",
    [
        "num_tokens: 5, max_tokens=123456789012, tokens_per_second 1234.5678901234567",
        "tokenization: sentence-splitter-2; the sas and the key of tokenization-2026",
        '{"token_str": "internationalization1", "mask_token": "[MASK]", "token": 12345678}',
        "key=bert.encoder.layer.0.attention.self.key.weight",
        "config=abcdefgh12345678 design=abcdefgh12345678 resign=abcdefgh12345678",
        "the bearer authentication-scheme of authorization: see role-based-access-control2",
        "a password is needed; signature: f(a1, b2)",
        "http://[server]:80/a, ssh://git@host/a, mail me@host12345678",
    ],
)  # fmt: skip
def test_ordinary_text_stays_as_it_is(text):
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"AccountName=a;AccountKey={SECRET}12==;EndpointSuffix=core",
         f"AccountName=a;AccountKey={REDACTED};EndpointSuffix=core"),
        (f"Authorization: Bearer {SECRET}", f"Authorization: Bearer {REDACTED}"),
        ("{'authorization': 'Basic bWU6cHc='}", f"{{'authorization': 'Basic {REDACTED}'}}"),
        ("a bearer abcdefg123", f"a bearer {REDACTED}"),
        ('{"client_secret": "abcd12345678", "b": 1}', f'{{"client_secret": "{REDACTED}", "b": 1}}'),
        ("# password: correct-horse-battery", f"# password: {REDACTED}"),
        ("\\nHF_TOKEN=abcdefg123", f"\\nHF_TOKEN={REDACTED}"),
        ("https://host/a?X-Amz-Credential=abcd1234&X-Amz-Expires=60&X-Amz-Signature=abcd5678",
         f"https://host/a?X-Amz-Credential={REDACTED}&X-Amz-Expires=60&X-Amz-Signature={REDACTED}"),
    ],
)  # fmt: skip
def test_secrets_are_known_by_what_they_are_assigned_to(text, expected):
    assert without_secrets(text) == expected


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ("https://host/a b(1)?sig=" + "x/y+z=1" * 3, "x%2Fy%2Bz%3D1" * 3),
        ("az://c/a?sv=1&sig=" + "u/v+w=2" * 3, "u%2Fv%2Bw%3D2" * 3),
        (["s3://key:1st-horse-battery@bucket"], "1st-horse-battery"),
        ({"s3": {"secret": "2nd-horse-battery"}}, "2nd-horse-battery"),
        ('{"s3": {"account_key": "3rd-horse-battery"}}', "3rd-horse-battery"),
        ("AccountName=a;AccountKey=4th-horse-battery;", "4th-horse-battery"),
    ],
    # The name of a test is in the environment.
    ids=["https", "az", "s3", "options", "json", "account"],
)
def test_what_settings_hold_is_known_from_then_on(settings, form):
    """Each case has a secret of its own, as this process remembers those of the others."""
    assert form in without_secrets(f"see {form} there")
    remember_secrets(settings)
    assert without_secrets(f"see {form} there") == f"see {REDACTED} there"


@given(st.recursive(st.text() | st.sampled_from(["https://a:b@c/d", "hf_" + "a" * 20]),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_json_stays_json(value):
    """What is written passes through it as text."""
    json.loads(without_secrets(json.dumps(value)))
    json.loads(without_secrets(json.dumps(value, ensure_ascii=False, indent=1)))
