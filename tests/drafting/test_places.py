"""Places as people name them become sources."""

import os

import pytest
from datasets import Dataset

from mlmtune.corpus import git, remote
from mlmtune.drafting import places
from mlmtune.drafting.places import NOT_TEXT, run_name, sources_at
from mlmtune.errors import ConfigError, DataError


def write(folder, *names, text="Text.\n"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def find(*named, git_cache=None):
    said = []
    return sources_at(list(named), git_cache, said.append), said


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_a_source_for_each_format_in_it(here):
    write(here, "docs/a.md", "docs/deep/b.MD", "docs/c.txt", "docs/logo.png")
    found, said = find("docs")
    assert found == [
        {"format": "markdown", "path": "docs", "name": "docs, markdown"},
        {"format": "text", "path": "docs", "name": "docs, text"},
    ]
    assert said == []


def test_hidden_files_and_installed_packages_are_not_text(here):
    write(here, "docs/a.md", "docs/.venv/b.rst", "docs/node_modules/c/README.md", "docs/.x.txt")
    assert find("docs")[0] == [{"format": "markdown", "path": "docs", "exclude": list(NOT_TEXT)}]
    # A hidden folder that is named itself is meant.
    assert find("docs/.venv")[0] == [{"format": "rst", "path": "docs/.venv"}]


def test_tables_are_read_unless_they_are_beside_documents(here):
    write(here, "both/a.md", "both/package.json", "tables/a.jsonl", "tables/b.csv")
    found, said = find("both")
    assert [source["format"] for source in found] == ["markdown"]
    assert said == ["both: 1 file of json beside documents are not read; name them to read them"]
    assert [source["format"] for source in find("tables")[0]] == ["json", "csv"]


def test_files_that_are_named_are_one_source_for_each_format(here):
    write(here, "a.md", "b.md", "c.json", "README")
    assert find("b.md", "a.md", "c.json", "README")[0] == [
        {"format": "markdown", "path": ["b.md", "a.md"]},
        {"format": "json", "path": "c.json"},
        {"format": "text", "path": "README"},
    ]


LONG = "A sentence of a review that goes on for a while, as reviews do, "


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (LONG * 3 + "\n", "lines"),
        (LONG + "\n", "text"),  # wrapped prose
        (LONG * 3 + "\n\n", "text"),  # paragraphs
    ],
)
def test_a_file_with_a_document_on_each_line_is_known_by_its_long_lines(here, text, kind):
    write(here, "a.txt", text=text * 30)
    assert find("a.txt")[0] == [{"format": kind, "path": "a.txt"}]


def test_a_glob_stays_one_if_all_matches_are_of_one_format(here):
    write(here, "docs/a.md", "docs/b.md")
    assert find("docs/*.md")[0] == [{"format": "markdown", "path": "docs/*.md"}]
    assert find(str(here / "docs/*"))[0] == [{"format": "markdown", "path": f"{here}/docs/*"}]


def test_a_glob_of_several_kinds_becomes_its_files(here):
    write(here, "docs/b.md", "docs/a.md", "docs/c.txt", "docs/d.png", "docs/e.json")
    assert find("docs/*")[0] == [
        {"format": "markdown", "path": ["docs/a.md", "docs/b.md"]},
        {"format": "text", "path": "docs/c.txt"},
    ]


def test_a_dataset_is_a_name_or_a_folder_that_was_saved(here):
    found, said = find("stanfordnlp/imdb")
    assert found == [{"format": "dataset", "dataset": "stanfordnlp/imdb"}]
    assert said == [
        "stanfordnlp/imdb: there is no such file or folder, so it is a dataset of the hub"
    ]
    Dataset.from_dict({"text": ["a"]}).save_to_disk(here / "saved")
    assert find("saved")[0] == [{"format": "dataset", "dataset": "saved"}]
    # Where there is a folder of the owner's name, a path was meant.
    with pytest.raises(DataError, match="saved/imdb does not exist"):
        find("saved/imdb")


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        ("https://github.com/a/b", {"git": "https://github.com/a/b"}),
        ("https://github.com/a/b/", {"git": "https://github.com/a/b"}),
        ("https://example.org/b.git", {"git": "https://example.org/b.git"}),
        ("git@github.com:a/b.git", {"git": "ssh://git@github.com/a/b.git"}),
        ("ssh://git@example.org/b", {"git": "ssh://git@example.org/b"}),
        (
            "https://github.com/a/b/tree/v1/docs/guide",
            {"git": "https://github.com/a/b", "revision": "v1",
             "include": [f"docs/guide/**/*{ending}" for ending in (".md", ".markdown", ".mdx")]},
        ),
        (
            "https://gitlab.com/a/b/-/tree/main",
            {"git": "https://gitlab.com/a/b", "revision": "main"},
        ),
    ],
)  # fmt: skip
def test_the_url_of_a_repository_is_a_source_of_what_it_holds(here, monkeypatch, url, repository):
    asked = []
    monkeypatch.setattr(
        git, "list_files",
        lambda *arguments: asked.append(arguments) or ["docs/guide/a.md", "other.py", ".x/y.rst"],
    )  # fmt: skip
    [source] = find(url)[0]
    excluded = source.pop("exclude", None)
    assert (excluded is None) == ("include" in repository)
    assert source == {"format": "markdown", **repository}
    assert asked[0][:2] == (repository["git"], repository.get("revision"))


def test_a_url_of_a_file_or_a_bucket_is_a_path(here, monkeypatch):
    [file] = find("https://example.org/a.txt")[0]
    assert file == {"format": "text", "path": "https://example.org/a.txt"}
    listed = [remote.RemoteFile("a.md", "s3://b/a.md", 1, "1")]
    monkeypatch.setattr(remote, "list_remote", lambda *_: listed)
    assert find("s3://b")[0] == [{"format": "markdown", "path": "s3://b"}]


def test_formats_whose_extra_is_missing_are_told_and_not_read(here, monkeypatch):
    def lacking(name):
        if name == "pdf":
            raise ConfigError("format: pdf needs pypdfium2; pip install x")

    monkeypatch.setattr(places, "check_available", lacking)
    write(here, "docs/a.md", "docs/b.pdf", "only/c.pdf")
    found, said = find("docs")
    assert [source["format"] for source in found] == ["markdown"]
    assert said == ["docs: 1 file not read: format: pdf needs pypdfium2; pip install x"]
    for named in ("only", "docs/b.pdf"):
        with pytest.raises(ConfigError, match="pdf needs pypdfium2"):
            find(named)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("", "the name of a place is empty"),
        ("dosc", "dosc does not exist; the nearest that exists is .*, which has 'docs'; a dataset"),
        ("docs", "docs: no file of it is text that can be read; the files there are: 1 of .png"),
        ("docs/*.md", "nothing matches the glob docs/"),
        ("none/*.md", "none does not exist"),
        ("empty", "empty: no file of it is text .* the files there are: none"),
    ],
)
def test_a_place_without_text_is_refused(here, named, message):
    write(here, "docs/a.png")
    os.mkdir("empty")
    with pytest.raises(DataError, match=rf"\A{message}"):  # without a key of the config
        find(named)


@pytest.mark.parametrize(
    ("named", "name"),
    [
        ("docs", "docs"), ("./docs/", "docs"), ("a b/My docs", "My-docs"), ("book.txt.gz", "book"),
        ("docs/*.md", "docs"), ("*.md", "work"), (".", "work"), ("stanfordnlp/imdb", "imdb"),
        ("https://github.com/a/azure-docs", "azure-docs"), ("git@github.com:a/b.git", "b"),
        ("https://github.com/a/b/tree/main/docs/guide", "guide"), ("/", "text"),
    ],
)  # fmt: skip
def test_a_run_is_called_as_the_first_place(tmp_path, monkeypatch, named, name):
    (tmp_path / "work" / "docs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert run_name([named, "other"]) == name
