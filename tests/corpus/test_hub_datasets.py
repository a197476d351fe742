import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import datasets
import pytest

from mlmtune import hub as environment
from mlmtune.config import SourceConfig
from mlmtune.corpus.hub_datasets import locate, read_dataset
from mlmtune.corpus.records import BrokenRecord, RawDocument
from mlmtune.errors import ConfigError, DataError, HubError, ResourceError

WHERE = "corpus.sources[0]"


def source(dataset, **settings):
    return SourceConfig(format="dataset", dataset=str(dataset), **settings)


def find(dataset, **settings):
    return locate(source(dataset, **settings), WHERE, lambda line: None)


def read(dataset, **settings):
    config = source(dataset, **settings)
    return list(read_dataset(config, locate(config, WHERE, lambda line: None)))


@pytest.fixture
def save(tmp_path):
    """Saves columns as a dataset in a folder."""

    def save_columns(columns, name="saved"):
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / name)
        return tmp_path / name

    return save_columns


@pytest.fixture
def split_folder(tmp_path):
    """A folder with the splits train and test."""
    datasets.disable_progress_bars()
    splits = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "splits")
    return tmp_path / "splits"


# Folders.


def test_the_rows_of_a_folder_are_documents_in_their_order(save):
    texts = [f"row {number}" for number in range(1000)]
    expected = [RawDocument(text, f"#{number}") for number, text in enumerate(texts, start=1)]
    assert read(save({"text": texts, "label": [0] * 1000})) == expected


def test_a_field_is_chosen_or_the_usual_one_is_taken(save):
    folder = save({"content": ["body"], "title": ["Title"], "note": ["note"]})
    assert read(folder) == [RawDocument("Title\n\nbody", "#1")]
    assert read(folder, text_field="note") == [RawDocument("note", "#1")]


def test_a_null_is_a_broken_record_and_the_others_are_read(save):
    records = read(save({"text": ["a", None, "c"]}))
    assert records[1] == BrokenRecord(" (row 2)", "field 'text' is null, not a string")
    assert [records[0], records[2]] == [RawDocument("a", "#1"), RawDocument("c", "#3")]


def test_a_missing_field_is_answered_with_those_there(save):
    with pytest.raises(DataError, match=r"\[0\]\.text_field: no column 'body'; .*: a, b "):
        read(save({"a": ["x"], "b": ["y"]}), text_field="body")


def test_a_field_of_numbers_is_refused_at_once(save):
    with pytest.raises(DataError, match="the field 'text' holds int64, not strings"):
        read(save({"text": [1, 2]}))


def test_images_beside_the_text_are_not_decoded(save):
    images = [{"bytes": b"no image at all", "path": "a.png"}]
    folder = save({"image": images, "text": ["a"]})
    path = folder / "dataset_info.json"
    info = json.loads(path.read_bytes())
    info["features"]["image"] = {"_type": "Image"}
    path.write_text(json.dumps(info), encoding="utf-8")
    assert isinstance(datasets.load_from_disk(str(folder)).features["image"], datasets.Image)
    assert read(folder) == [RawDocument("a", "#1")]


def test_streaming_takes_the_first_rows(save):
    folder = save({"text": list("abcdef")})
    assert [record.text for record in read(folder, streaming=True, max_documents=2)] == ["a", "b"]
    assert len(read(folder, max_documents=2)) == 6  # the subset is drawn later


def test_a_split_is_chosen_and_train_is_the_usual_one(split_folder):
    assert [record.text for record in read(split_folder)] == ["train"]
    assert [record.text for record in read(split_folder, split="test")] == ["test"]
    with pytest.raises(ConfigError, match=r"\[0\]: .* 'dev'; the splits are: train, test"):
        find(split_folder, split="dev")


def test_a_dataset_without_splits_has_none_to_choose(save):
    with pytest.raises(ConfigError, match=r"\[0\]: .* without the split 'x'; name no split"):
        find(save({"text": ["a"]}), split="x")


@pytest.mark.parametrize("setting", ["dataset_config", "revision"])
def test_a_setting_without_meaning_for_a_folder_is_refused(save, setting):
    with pytest.raises(ConfigError, match=rf"\[0\]\.{setting}: .* remove it"):
        find(save({"text": ["a"]}), **{setting: "x"})


def test_the_signature_follows_the_rows(save, split_folder):
    texts = {"text": ["a"]}
    before = find(save(texts))
    assert find(save(texts, "saved")).signature != before.signature  # written anew
    folder = save({"text": ["b"]}, "other")
    assert find(folder) == find(folder)
    assert find(folder).signature != before.signature
    assert find(split_folder).signature != find(split_folder, split="test").signature


def test_the_size_of_a_folder_is_that_of_its_files(save):
    folder = save({"text": ["a" * 10_000]})
    assert find(folder).num_bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"not written by save_to_disk; .* path"):
        find(tmp_path)


@pytest.mark.parametrize("name", ["./no-such", "/no/such", "a/b/c"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(name):
    with pytest.raises(DataError, match=f"there is no folder {name}"):
        find(name)


def test_a_folder_without_its_rows_is_damaged(save):
    folder = save({"text": ["a"]})
    next(folder.glob("*.arrow")).unlink()
    with pytest.raises(DataError, match=r"\.arrow is missing; save the dataset again"):
        find(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_folder_whose_state_is_broken_is_damaged(save, content):
    folder = save({"text": ["a"]})
    (folder / "state.json").write_bytes(content)
    with pytest.raises(DataError, match=r"state\.json cannot be read"):
        find(folder)


def test_rows_that_are_cut_off_are_said(save):
    folder = save({"text": ["a" * 100] * 1000})
    path = next(folder.glob("*.arrow"))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(DataError, match=r"dataset: .* cannot be read") as error:
        read(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("below", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/cache"), OSError),
        (OSError("Not enough disk space. Needed: 5 GB"), ResourceError),
        (ConnectionError("no https://cdn.example/a.parquet?Signature=s3cret"), HubError),
        (ValueError("no row"), DataError),
    ],
)
def test_errors_are_told_apart_by_what_lies_under_them(save, monkeypatch, below, expected):
    def fail(*_, **__):
        raise datasets.exceptions.DatasetGenerationError("An error occurred") from below

    folder = save({"text": ["a"]})
    monkeypatch.setattr(datasets.Dataset, "load_from_disk", fail)
    with pytest.raises(expected, match=re.escape(str(below).split("?")[0])) as raised:
        read(folder)
    assert type(raised.value) is expected
    assert "s3cret" not in str(raised.value)


# What the environment says.


def test_what_overrides_a_default_is_noted_without_secrets(monkeypatch):
    for name in ("HF_ENDPOINT", "HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert environment.environment_notes() == []
    monkeypatch.setenv("HF_ENDPOINT", "https://user:s3cret@mirror.example/hub")
    monkeypatch.setenv("HF_HOME", "/data/hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    assert environment.environment_notes() == [
        "HF_ENDPOINT=https://mirror.example/hub",
        "HF_HOME=/data/hub",
        "HF_HUB_OFFLINE is set",
        "HF_TOKEN is set",
    ]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "HF_HUB_OFFLINE is set" not in environment.environment_notes()


# The hub. Its client reads the environment on import: child processes do some jobs each.

OLD, NEW, OTHER = ("1" * 40, "2" * 40, "3" * 40)


def rows(*texts):
    return b"".join(json.dumps({"text": text, "n": 1}).encode() + b"\n" for text in texts)


def page(*configs):
    listed = [f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in configs]
    return f"---\nconfigs:\n{''.join(listed)}---\n# Page\n".encode()


# Name -> commit -> files.
REPOSITORIES = {
    "owner/news": {
        OLD: {"README.md": b"# News\n", "train.jsonl": rows("old 1")},
        NEW: {
            "README.md": b"# News\n",
            "train.jsonl": rows("new 1", "new 2", "new 3"),
            "test.jsonl": rows("test 1"),
        },
    },
    "owner/TwoParts": {NEW: {"README.md": page("a", "b"), "a.jsonl": rows("a 1"),
                             "b.jsonl": rows("b 1")}},
    "owner/named": {NEW: {"README.md": page("only"), "only.jsonl": rows("only 1")}},
    "owner/no-page": {NEW: {"train.csv": b"text,n\nplain 1,1\nplain 2,2\n"}},
    "owner/script": {NEW: {"script.py": b"raise SystemExit('it was run')\n"}},
    "owner/broken": {NEW: {"train.jsonl": b'{"text": "a"}\n{"text": \n'}},
}  # fmt: skip
REVISIONS = {"main": NEW, "v1": OLD}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a dataset of a few files needs."""

    protocol_version = "HTTP/1.1"
    requests: list[str]

    def do_GET(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.requests.append(f"{self.command} {path}")
        match = re.fullmatch(
            r"(?:/api)?/datasets/([^/]+/[^/]+)(?:/(\w[\w-]*)/([^/]+))?/?(.*)", path
        )
        if match is None:
            self.send(404)
            return
        name, action, revision, below = match.groups()
        if name == "owner/gated":
            self.send(403, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
            return
        if name not in REPOSITORIES:
            self.send(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
            return
        commit = REVISIONS.get(revision or "main", revision)
        files = REPOSITORIES[name].get(commit)
        if files is None:
            self.send(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
        elif action in (None, "revision"):
            siblings = [{"rfilename": file} for file in files]
            self.send(200, {"id": name, "sha": commit, "siblings": siblings})
        elif action == "tree":
            self.send(200, [self.entry(files, file) for file in files if not below])
        elif action == "paths-info":
            self.send(200, [self.entry(files, file) for file in files if file.encode() in body])
        else:
            self.send_file(files.get(below), commit)

    do_HEAD = do_POST = do_GET

    def entry(self, files, name):
        digest = hashlib.sha1(files[name]).hexdigest()
        return {"type": "file", "path": name, "size": len(files[name]), "oid": digest}

    def send_file(self, content, commit):
        headers = {"X-Repo-Commit": commit}
        if content is None:
            self.send(404, {"error": "no"}, headers | {"X-Error-Code": "EntryNotFound"})
            return
        headers |= {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self.send(200, content, headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers |= {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self.send(206, content[first : last + 1], headers)

    def send(self, status, content=b"", headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


CHILD = """
import json, sys, time
from mlmtune import hub
from mlmtune.config import SourceConfig
from mlmtune.corpus.hub_datasets import locate, read_dataset
from mlmtune.errors import MlmtuneError

hub.HUB_TIMEOUT_SECONDS = 1.0
for job, settings in json.load(sys.stdin).items():
    outcome = {"said": []}
    source = SourceConfig(format="dataset", **settings)
    start = time.monotonic()
    try:
        listed = locate(source, "corpus.sources[0]", outcome["said"].append)
        outcome["commit"] = listed.signature
        outcome["texts"] = [record.text for record in read_dataset(source, listed)]
    except MlmtuneError as error:
        outcome |= {"error": type(error).__name__, "message": str(error)}
    outcome["seconds"] = time.monotonic() - start
    print(json.dumps({job: outcome}))
"""

NEWS = "owner/news"
ONLINE = {
    "streamed": {"dataset": NEWS, "streaming": True, "max_documents": 2},
    "branch": {"dataset": NEWS},
    "split": {"dataset": NEWS, "split": "test"},
    "tag": {"dataset": NEWS, "revision": "v1"},
    "commit": {"dataset": NEWS, "revision": OLD},
    "configuration": {"dataset": "owner/TwoParts", "dataset_config": "b"},
    "only configuration": {"dataset": "owner/named"},
    "again": {"dataset": "owner/named"},
    "no page": {"dataset": "owner/no-page"},
    "no page, streamed": {"dataset": "owner/no-page", "streaming": True, "max_documents": 1},
    "no such split": {"dataset": NEWS, "split": "dev"},
    "no such configuration": {"dataset": "owner/TwoParts", "dataset_config": "c"},
    "several configurations": {"dataset": "owner/TwoParts"},
    "no such field": {"dataset": NEWS, "text_field": "body"},
    "no such revision": {"dataset": NEWS, "revision": "v9"},
    "no such dataset": {"dataset": "owner/none"},
    "no name": {"dataset": "not a name!"},
    "gated": {"dataset": "owner/gated"},
    "script": {"dataset": "owner/script"},
    "broken": {"dataset": "owner/broken"},
}
CACHED = ("branch", "tag", "commit", "configuration", "only configuration", "no page")
OUT_OF_REACH = {
    **{job: ONLINE[job] for job in ("streamed", *CACHED)},
    "other commit": {"dataset": NEWS, "revision": OTHER},
    "other configuration": {"dataset": "owner/TwoParts", "dataset_config": "a"},
    "not cached": {"dataset": "owner/other"},
}


@pytest.fixture(scope="module")
def fake_hub():
    """Its address and the list of requests so far."""
    requests = []
    handler = type("LoggingHub", (Hub,), {"requests": requests})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def outcomes(fake_hub, tmp_path_factory):
    """What came of the jobs: with the hub in reach, then offline, then with the hub gone."""
    address, requests = fake_hub
    home = tmp_path_factory.mktemp("home")
    environment = {
        "HOME": str(home), "PATH": os.environ["PATH"], "HF_HOME": str(home / "hub"),
        "HF_TOKEN": "hf_s3cret", "HF_ENDPOINT": address,
    }  # fmt: skip

    def start(**changes):
        return subprocess.Popen(
            [sys.executable, "-c", CHILD], env=environment | changes, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def finish(child, jobs):
        output, errors = child.communicate(json.dumps(jobs), timeout=120)
        assert child.returncode == 0, errors
        found = {}
        for line in output.splitlines():
            found |= json.loads(line)
        return found, errors

    results = {"online": finish(start(), ONLINE)}
    num_requests = len(requests)
    offline, gone = start(HF_HUB_OFFLINE="1"), start(HF_ENDPOINT="http://127.0.0.1:9")
    results["offline"] = finish(offline, OUT_OF_REACH)
    results["gone"] = finish(gone, OUT_OF_REACH)
    assert len(requests) == num_requests
    return results


@pytest.mark.parametrize(
    ("job", "texts"),
    [
        ("streamed", ["new 1", "new 2"]),
        ("branch", ["new 1", "new 2", "new 3"]),
        ("split", ["test 1"]),
        ("tag", ["old 1"]),
        ("commit", ["old 1"]),
        ("configuration", ["b 1"]),
        ("only configuration", ["only 1"]),
        ("no page", ["plain 1", "plain 2"]),
        ("no page, streamed", ["plain 1"]),
    ],
)
def test_a_dataset_of_the_hub_is_read_at_its_commit(outcomes, job, texts):
    outcome = outcomes["online"][0][job]
    assert outcome.get("texts") == texts, outcome
    assert outcome["commit"] == (OLD if job in ("tag", "commit") else NEW)


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        ("no such split", "ConfigError", r": .* no split 'dev'; the splits are: .*test"),
        ("no such configuration", "ConfigError", r"dataset_config: .* no 'c'; there are: a, b"),
        ("several configurations", "ConfigError", r"dataset_config: .* several .*: a, b; name one"),
        ("no such field", "DataError", r"text_field: no column 'body'; the columns are: text, n"),
        ("no such revision", "HubError", r"revision: owner/news has no revision 'v9'"),
        ("no such dataset", "HubError", r"no such dataset on http://127.*HF_TOKEN"),
        ("no name", "ConfigError", r"neither a folder nor a name on the hub"),
        ("gated", "HubError", r"owner/gated is gated; .* HF_TOKEN"),
        ("script", "HubError", r"a script .* never .*refs/convert/parquet"),
        ("broken", "DataError", r"owner/broken: cannot be read \("),
    ],
)
def test_what_the_hub_does_not_have_is_said(outcomes, job, error, message):
    outcome = outcomes["online"][0][job]
    assert outcome.get("error") == error, outcome
    assert re.search(rf"^corpus\.sources\[0\].*{message}", outcome["message"]), outcome["message"]
    assert "\n" not in outcome["message"]


def test_the_source_of_a_dataset_is_said_and_nothing_else_is_printed(outcomes, fake_hub):
    found, errors = outcomes["online"]
    (line,) = found["branch"]["said"]
    assert line.startswith(f"dataset owner/news: commit {NEW[:12]} (HF_ENDPOINT={fake_hub[0]}; ")
    assert line.endswith("; HF_TOKEN is set)")
    assert "s3cret" not in json.dumps(found)
    assert errors == ""


@pytest.mark.parametrize("state", ["offline", "gone"])
@pytest.mark.parametrize("job", CACHED)
def test_what_was_read_once_needs_no_hub(outcomes, state, job):
    before, after = outcomes["online"][0][job], outcomes[state][0][job]
    assert (after.get("commit"), after.get("texts")) == (before["commit"], before["texts"]), after
    says_why = {"offline": "HF_HUB_OFFLINE is set", "gone": "127.0.0.1:9 cannot be reached"}
    is_pinned = job == "commit"
    assert ("the last known; " in after["said"][0]) != is_pinned
    assert is_pinned or says_why[state] in after["said"][0]


def test_a_second_run_fetches_no_file(outcomes, fake_hub):
    assert outcomes["online"][0]["again"]["texts"] == ["only 1"]
    assert fake_hub[1].count(f"GET /datasets/owner/named/resolve/{NEW}/only.jsonl") == 1


def test_prepared_rows_do_for_a_stream(outcomes):
    assert outcomes["offline"][0]["streamed"]["texts"] == ["new 1", "new 2"]


@pytest.mark.parametrize("state", ["offline", "gone"])
def test_another_commit_or_configuration_is_never_taken_for_the_one_asked(outcomes, state):
    for job in ("other commit", "other configuration"):
        outcome = outcomes[state][0][job]
        assert outcome.get("error") == "HubError", outcome
        assert "is not in the cache" in outcome["message"]


def test_a_hub_out_of_reach_is_given_up_soon(outcomes):
    """Some versions of the client ask it something of their own first, for up to 3 seconds."""
    for state, seconds in (("offline", 1.0), ("gone", 8.0)):
        outcome = outcomes[state][0]["not cached"]
        assert outcome.get("error") == "HubError", outcome
        assert "there is no cached copy" in outcome["message"]
        assert outcome["seconds"] < seconds
