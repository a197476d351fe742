import errno
import os
import socket
import sys
import threading
from email.utils import formatdate
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mlmtune.corpus import remote
from mlmtune.corpus.records import FileLeftOut
from mlmtune.corpus.remote import is_remote, list_remote, local_copy
from mlmtune.errors import ConfigError, DataError, HubError

WHERE = "corpus.sources[0]"
SIGNED = "?X-Amz-Signature=s3cret&X-Amz-Expires=60"


def is_markdown(below):
    return below.endswith(".md")


def ids(location, matches=is_markdown):
    return [file.id for file in list_remote(location, matches, WHERE)]


@pytest.fixture
def bucket():
    """Files at memory://bucket."""
    fs = MemoryFileSystem()
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    for name, text in {
        "readme.md": "# Read me", "docs/b.md": "b", "docs/a.md": "a", "docs/deep/c.md": "c",
        "docs/logo.png": "png", "other/d.md": "d",
    }.items():  # fmt: skip
        fs.pipe_file(f"/bucket/{name}", text.encode())
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder; addresses below /refused and /broken fail."""

    def send_head(self):
        if self.path.startswith("/refused"):
            self.send_error(403)
        elif self.path.startswith("/broken"):
            self.send_error(500)
        elif self.path.startswith("/cut"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
        else:
            return super().send_head()
        return None

    def guess_type(self, path):
        return "text/html" if Path(path).is_dir() else "application/octet-stream"

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A web server; gives the folder that it shows, and its address."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "docs" / "deep").mkdir(parents=True)
    for name in ("readme.md", "docs/b.md", "docs/a page.md", "docs/deep/c.md", "docs/logo.png"):
        (folder / name).write_text(f"text of {name}", encoding="utf-8")

    def handler(*arguments):
        return Handler(*arguments, directory=str(folder))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3://bucket/docs", True),
        ("https://example.org/a.jsonl", True),
        ("memory://a", True),
        ("package://name/docs", False),
        ("/data/docs", False),
        ("~/docs/*.md", False),
        ("docs:2/a", False),
    ],
)
def test_a_location_with_a_scheme_is_remote_but_for_packages(location, expected):
    assert is_remote(location) == expected


# Listing.


def test_a_folder_is_listed_to_its_depths_by_what_matches(bucket):
    files = list_remote("memory://bucket/docs", is_markdown, WHERE)
    assert [file.id for file in files] == ["a.md", "b.md", "deep/c.md"]
    assert [file.url for file in files] == [f"memory://bucket/docs/{file.id}" for file in files]
    assert [file.size for file in files] == [1, 1, 1]


def test_matching_goes_by_the_path_below_the_folder(bucket):
    assert ids("memory://bucket/", lambda below: below == "docs/deep/c.md") == ["docs/deep/c.md"]


def test_a_file_named_outright_is_taken_whatever_its_ending(bucket):
    (file,) = list_remote("memory://bucket/docs/logo.png", is_markdown, WHERE)
    assert (file.id, file.url) == ("logo.png", "memory://bucket/docs/logo.png")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("docs/*.md", ["a.md", "b.md"]),
        ("docs/?.md", ["a.md", "b.md"]),
        ("docs/*", ["a.md", "b.md", "deep/c.md"]),
        ("**/*.md", ["docs/a.md", "docs/b.md", "docs/deep/c.md", "other/d.md", "readme.md"]),
        ("[do]*/[a-d].md", ["docs/a.md", "docs/b.md", "other/d.md"]),
    ],
)
def test_a_glob_names_files_and_folders(bucket, pattern, expected):
    assert ids(f"memory://bucket/{pattern}") == expected


@pytest.mark.parametrize("pattern", ["none/*.md", "docs/[x].md"])
def test_a_glob_that_nothing_matches_is_named(bucket, pattern):
    with pytest.raises(DataError, match=r"path: nothing matches the glob memory://bucket/.*"):
        ids(f"memory://bucket/{pattern}")


def test_the_version_changes_with_the_content(bucket):
    def version():
        return list_remote("memory://bucket/readme.md", is_markdown, WHERE)[0].version

    before = version()
    assert version() == before
    bucket.pipe_file("/bucket/readme.md", b"# Other")
    assert version() != before


# What cannot be opened.


def test_a_missing_plugin_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r"sources\[0\]\.path: s3:// .* pip install s3fs$"):
        ids("s3://bucket/docs")


def test_an_unknown_scheme_is_answered_with_known_ones():
    with pytest.raises(ConfigError, match=r"s4:// is not a kind .* https, s3, gs"):
        ids("s4://bucket/docs")


def test_what_does_not_exist_is_named(bucket):
    with pytest.raises(DataError, match=r"sources\[0\]\.path: memory://bucket/no does not exist"):
        ids("memory://bucket/no")


class Refusing(MemoryFileSystem):
    protocol = "refusing"

    def info(self, path, **kwargs):
        raise PermissionError("AccessDenied for key s3cret")


def test_refused_access_is_told_from_absence():
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    with pytest.raises(HubError, match="access is refused") as error:
        ids("refusing://bucket")
    assert "s3cret" not in str(error.value)


# The web.


def test_a_file_on_the_web_is_fetched_whole_and_its_copy_deleted(site):
    folder, address = site
    (file,) = list_remote(f"{address}/readme.md", is_markdown, WHERE)
    text = (folder / "readme.md").read_text(encoding="utf-8")
    assert (file.id, file.size) == ("readme.md", len(text))
    with local_copy(file.url) as path:
        assert path.endswith(".md")
        assert Path(path).read_text(encoding="utf-8") == text
    assert not Path(path).parent.exists()


def test_a_page_of_links_is_a_folder(site):
    _, address = site
    files = list_remote(f"{address}/docs/", is_markdown, WHERE)
    assert [file.id for file in files] == ["a page.md", "b.md", "deep/c.md"]
    assert ids(f"{address}/docs") == [file.id for file in files]
    assert ids(f"{address}/docs/*.md") == ["a page.md", "b.md"]
    with local_copy(files[0].url) as path:
        assert Path(path).read_text(encoding="utf-8") == "text of docs/a page.md"


def test_a_change_on_the_web_is_seen_in_a_listing_of_its_folder(site):
    folder, address = site
    (before,) = list_remote(f"{address}/docs/deep/", is_markdown, WHERE)
    path = folder / "docs" / "deep" / "c.md"
    old = path.stat().st_mtime
    assert before.version == formatdate(int(old), usegmt=True)
    os.utime(path, (old, old + 60))
    (after,) = list_remote(f"{address}/docs/deep/", is_markdown, WHERE)
    assert (after.id, after.size) == (before.id, before.size)
    assert after.version != before.version


def test_a_query_belongs_to_the_address_and_not_to_the_name(site):
    _, address = site
    (file,) = list_remote(f"{address}/readme.md{SIGNED}", is_markdown, WHERE)
    assert file.id == "readme.md"
    assert file.url.endswith(SIGNED)
    with local_copy(file.url) as path:
        assert path.endswith("copy.md")


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("no.md", DataError, "does not exist"),
        ("refused/a.md", HubError, "access is refused"),
        ("broken/a.md", HubError, "500"),
    ],
)
def test_the_web_fails_in_one_line_without_the_query(site, path, error, message):
    _, address = site
    with pytest.raises(error, match=message) as raised:
        ids(f"{address}/{path}{SIGNED}")
    assert f"{address}/{path}" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "reason", "broken"),
    [
        ("no.md", "vanished", False),
        ("refused/a.md", "unreachable", True),
        ("broken/a.md", "unreachable", True),
        ("cut/a.md", "unreachable", True),
    ],
)
def test_a_file_that_cannot_be_fetched_is_left_out_with_a_reason(site, path, reason, broken):
    _, address = site
    with pytest.raises(FileLeftOut) as raised, local_copy(f"{address}/{path}{SIGNED}"):
        pytest.fail("there is nothing to read")
    assert (raised.value.reason, raised.value.broken) == (reason, broken)
    assert "s3cret" not in raised.value.detail


def test_a_server_that_is_silent_is_given_up(monkeypatch):
    monkeypatch.setattr(remote, "READ_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.md"
        with pytest.raises(HubError, match="cannot be read"):
            ids(address)
        with pytest.raises(FileLeftOut, match="unreachable"), local_copy(address):
            pytest.fail("there is nothing to read")


def test_a_full_disk_is_not_taken_for_a_broken_file(bucket, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MemoryFileSystem, "get_file", full)
    with pytest.raises(OSError, match="No space left"), local_copy("memory://bucket/readme.md"):
        pytest.fail("there is nothing to read")


@pytest.mark.parametrize(
    ("name", "ending"), [("a.jsonl.gz", ".jsonl.gz"), ("v1.2.notes.md", ".notes.md"), ("a", "")]
)
def test_a_copy_keeps_the_endings(bucket, tmp_path, name, ending):
    bucket.pipe_file(f"/bucket/{name}", b"x")
    with local_copy(f"memory://bucket/{name}", tmp_path) as path:
        assert Path(path).name == f"copy{ending}"
        assert Path(path).is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_local_path_is_given_back_as_it_is():
    with local_copy("/data/docs/a.md") as path:
        assert path == "/data/docs/a.md"
