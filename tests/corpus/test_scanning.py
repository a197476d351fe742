import os
import shutil
import socket
from pathlib import Path

import fsspec
import pytest

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus import scanning
from mlmtune.corpus.scanning import scan as scan_into
from mlmtune.corpus.sources import all_sources
from mlmtune.errors import ConfigError, DataError


def scan(config, say=pytest.fail):
    return scan_into(all_sources(config), Path("no repository"), say)


@pytest.fixture
def tree(tmp_path):
    """Make files below a folder of its own; gives that folder."""
    root = tmp_path / "root"
    root.mkdir()

    def make(*names):
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return root

    return make


def scan_one(path, format_="markdown", **settings):
    paths = [str(p) for p in path] if isinstance(path, list) else str(path)
    source = SourceConfig(format=format_, path=paths, **settings)
    (listed,) = scan(CorpusConfig(sources=[source])).sources
    return listed


def ids(path, *args, **settings):
    return [file.id for file in scan_one(path, *args, **settings).files]


def test_a_folder_is_walked_to_its_depths_in_sorted_order(tree):
    root = tree(
        "b/deep/er/x.md", "a.md", "b.md", "b/a.markdown", "Z.MD", "a.txt", "c.md.gz", ".git/x.md"
    )
    assert ids(root) == ["Z.MD", "a.md", "b.md", "b/a.markdown", "b/deep/er/x.md", "c.md.gz"]


def test_a_listed_file_tells_where_it_is_how_large_and_how_old(tree):
    root = tree("sub/a.md")
    (file,) = scan_one(root).files
    status = os.stat(root / "sub/a.md")
    assert (file.id, file.path) == ("sub/a.md", str(root / "sub/a.md"))
    assert (file.size, file.version) == (status.st_size, str(status.st_mtime_ns))


def test_very_deep_folders_are_walked(tmp_path):
    folder = tmp_path
    for _ in range(400):
        folder = folder / "d"
    folder.mkdir(parents=True)
    (folder / "a.md").write_text("x")
    assert ids(tmp_path) == ["d/" * 400 + "a.md"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.rst"], [], ["x/a.rst"]),
        (["x/*.md"], [], ["x/a.md"]),
        (["x/**"], [], ["x/a.md", "x/a.rst", "x/y/b.md"]),
        (["**/b.md", "top.*"], [], ["top.md", "x/y/b.md"]),
        (["[tx]*.md"], [], ["top.md"]),
        (["[!t]*.md"], [], ["x/a.md", "x/y/b.md"]),
        (["?.md"], [], ["x/a.md", "x/y/b.md"]),
        (["y/"], [], ["x/y/b.md"]),
        (None, ["y"], ["top.md", "x/a.md"]),
        (None, ["x/"], ["top.md"]),
        (None, ["x/y"], ["top.md", "x/a.md"]),
        (None, ["top.md", "**/b.md"], ["x/a.md"]),
        (None, ["/a.md"], ["top.md", "x/a.md", "x/y/b.md"]),
    ],
)
def test_include_and_exclude(tree, include, exclude, expected):
    root = tree("top.md", "x/a.md", "x/a.rst", "x/y/b.md")
    assert ids(root, include=include, exclude=exclude) == expected


def test_a_file_named_directly_is_read_whatever_its_ending(tree):
    assert ids(tree("a.odd") / "a.odd") == ["a.odd"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.odd", ["a.odd"]),
        ("*/*.odd", ["x/b.odd"]),
        ("**/*.odd", ["a.odd", "x/b.odd", "x/y/c.odd"]),
        ("x*", ["x/b.md", "x/y/c.md"]),
        ("x/[a-c].odd", ["b.odd"]),
    ],
)
def test_globs(tree, glob, expected):
    root = tree("a.odd", "x/b.odd", "x/b.md", "x/y/c.odd", "x/y/c.md", "a.md")
    assert ids(root / glob) == expected


@pytest.mark.parametrize("brackets", ["[]", "[c-a]", "["])
def test_brackets_that_hold_no_characters_are_themselves(tree, brackets):
    root = tree(f"x/a{brackets}.md", "x/ac.md")
    assert ids(root / f"*/a{brackets}*") == [f"x/a{brackets}.md"]


def test_a_name_with_brackets_is_no_glob_where_it_exists(tree):
    assert ids(tree("[a].md", "a.md") / "[a].md") == ["[a].md"]


def test_a_file_listed_twice_is_read_once(tree):
    root = tree("x/a.md", "y/a.md")
    assert ids([root, root / "x", root / "x/a.md", root / "**/*.md"]) == ["x/a.md", "y/a.md"]


def test_ids_of_several_roots_are_told_apart(tree):
    root = tree("x/a.md", "y/a.md")
    assert ids([root / "y", root / "x"]) == ["x/a.md", "y/a.md"]


def test_links_that_loop_or_lead_out_are_not_followed(tree, tmp_path):
    root = tree("x/a.md")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("x")
    (root / "x" / "loop").symlink_to(root)
    (root / "x" / "self.md").symlink_to("self.md")
    (root / "folder.md").symlink_to(outside)
    (root / "file.md").symlink_to(outside / "secret.md")
    (root / "dangling.md").symlink_to(root / "nothing.md")
    (root / "again.md").symlink_to(root / "x" / "a.md")

    listed = scan_one(root)
    assert [(file.id, file.path) for file in listed.files] == [("again.md", str(root / "x/a.md"))]
    reasons = {os.path.basename(place.path): place.reason for place in listed.passed_over}
    assert reasons == {
        "folder.md": "link_outside",
        "file.md": "link_outside",
        "dangling.md": "link_broken",
        "self.md": "link_broken",
    }


def test_a_link_that_the_config_names_is_followed(tree, tmp_path):
    root = tree("x/a.md")
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "link.md").symlink_to(root / "x/a.md")
    assert ids(tmp_path / "link") == ["x/a.md"]
    assert ids(tmp_path / "link.md") == ["link.md"]


def test_pipes_and_sockets_are_passed_over(tree, monkeypatch):
    root = tree("a.md")
    os.mkfifo(root / "pipe.md")
    monkeypatch.chdir(root)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.md")
        listed = scan_one(root)
    assert [file.id for file in listed.files] == ["a.md"]
    assert [place.reason for place in listed.passed_over] == ["not_a_file"] * 2


def test_a_folder_that_cannot_be_listed_is_named(tree, monkeypatch):
    root = tree("a.md", "closed/b.md")
    scandir = os.scandir

    def refuse(path):
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(scanning.os, "scandir", refuse)
    listed = scan_one(root)
    assert [file.id for file in listed.files] == ["a.md"]
    assert [(p.path, p.reason) for p in listed.passed_over] == [
        (str(root / "closed"), "unreadable")
    ]


def test_a_missing_path_names_the_key_and_what_is_near(tree):
    root = tree("articles/a.md")
    sources = [SourceConfig(format="markdown", path=str(p)) for p in (root, root / "article" / "x")]
    with pytest.raises(DataError) as caught:
        scan(CorpusConfig(sources=sources))
    message = str(caught.value)
    assert message.startswith(f"corpus.sources[1].path: {root}/article/x does not exist")
    assert f"{root}, which has 'articles'" in message
    assert "\n" not in message


def test_a_missing_validation_path_is_named_as_such(tree):
    good = SourceConfig(format="markdown", path=str(tree("a.md")))
    bad = SourceConfig(format="markdown", path=str(tree() / "none"))
    with pytest.raises(DataError, match=r"corpus\.validation_sources\[0\]\.path"):
        scan(CorpusConfig(sources=[good], validation_sources=[bad]))


def test_no_match_lists_the_endings_there_are(tree):
    root = tree("a.txt", "b.txt", "c.png", "LICENSE")
    with pytest.raises(DataError, match=r"matches \.md.*2 of \.txt, 1 of "):
        scan_one(root)
    with pytest.raises(DataError, match="no file at all"):
        scan_one(tree("empty/x") / "empty", exclude=["x"])
    with pytest.raises(DataError, match=r"matches \*\.rst"):
        scan_one(root, include=["*.rst"])


@pytest.mark.parametrize("glob", ["docs*/**/*.md", "none*", "*/deep/[x]"])
def test_a_glob_that_nothing_matches_is_named_as_such(tree, glob):
    root = tree("a.md", "sub/b.md")
    with pytest.raises(DataError, match=r"\[0\]\.path: nothing matches the glob .*; correct"):
        scan(
            CorpusConfig(
                sources=[SourceConfig(format="markdown", path=[str(root), f"{root}/{glob}"])]
            )
        )


def test_packages_may_be_named_and_globbed():
    assert ids("package://pydoc_data/topics.py", "python", text_field="topics") == ["topics.py"]
    assert "topics.py" in ids("package://pydoc_data/*.py", "python", text_field="topics")
    with pytest.raises(ConfigError):
        ids("package://no_such_package/*.py", "python", text_field="topics")


def test_signature_changes_with_the_files_and_only_with_them(tree):
    root = tree("a.md", "b.md")
    config = CorpusConfig(sources=[SourceConfig(format="markdown", path=str(root))])
    signatures = [scan(config).signature()]
    assert scan(config).signature() == signatures[0]

    os.utime(root / "a.md", ns=(1, 1))
    signatures.append(scan(config).signature())
    (root / "a.md").write_text("longer than before")
    os.utime(root / "a.md", ns=(1, 1))
    signatures.append(scan(config).signature())
    (root / "a.md").rename(root / "c.md")
    signatures.append(scan(config).signature())
    (root / "c.md").unlink()
    signatures.append(scan(config).signature())
    assert len(set(signatures)) == len(signatures)

    (root / "other.txt").write_text("not in the corpus")
    assert scan(config).signature() == signatures[-1]


def test_names_that_are_not_unicode_are_listed(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.md"
    with open(name, "w") as file:
        file.write("x")
    listing = scan(CorpusConfig(sources=[SourceConfig(format="markdown", path=str(tmp_path))]))
    (listed,) = listing.sources
    assert os.fsencode(listed.files[0].path) == name
    assert listing.signature()


def test_a_file_url_is_a_local_path(tree):
    root = tree("a.md", "b/c.md")
    listed = scan_one(f"file://{root}")
    assert [(file.id, file.path) for file in listed.files] == [
        ("a.md", f"{root}/a.md"),
        ("b/c.md", f"{root}/b/c.md"),
    ]
    assert ids(f"file://{root}/b/*.md") == ["c.md"]


def test_remote_files_are_listed_by_id_with_local_ones_of_their_source(tree):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/scanned/x.md": b"x", "/scanned/y.txt": b"y"})
    try:
        listed = scan_one([str(tree("a.md")), "memory://scanned"])
    finally:
        memory.rm("/scanned", recursive=True)
    assert [(file.id, file.size) for file in listed.files] == [
        ("a.md", 4),
        ("memory://scanned/x.md", 1),
    ]


def test_what_is_passed_over_is_part_of_the_signature(tree):
    root = tree("a.md")
    config = CorpusConfig(sources=[SourceConfig(format="markdown", path=str(root))])
    before = scan(config).signature()
    os.mkfifo(root / "b.md")
    assert scan(config).signature() != before


def test_where_files_are_is_no_part_of_the_signature_but_of_the_place(tree, tmp_path):
    root = tree("a.md")
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    one, other = (
        scan(CorpusConfig(sources=[SourceConfig(format="markdown", path=str(p), name="docs")]))
        for p in (root, copy)
    )
    assert one.signature() == other.signature()
    assert one.paths_digest() != other.paths_digest()


def test_files_with_other_endings_are_counted(tree):
    root = tree("a.md", "b.docx", "sub/c.DOCX", "d.txt.gz", "Makefile", ".git/e.html", "x/f.pdf")
    (source,) = scan(
        CorpusConfig(
            sources=[SourceConfig(format="markdown", path=str(root), exclude=["x"])],
        )
    ).sources
    assert source.endings_not_read == {".docx": 2, ".txt.gz": 1, "none": 1}


def test_what_another_format_of_a_folder_reads_is_read(tree):
    root = tree("a.md", "b.txt", "c.png", "d.png")
    config = CorpusConfig(
        sources=[SourceConfig(format=name, path=str(root)) for name in ("markdown", "text")]
    )
    assert [each.endings_not_read for each in scan(config).sources] == [{".png": 2}, {}]


@pytest.mark.parametrize("fields", [{"include": ["*.md"]}, {"path": "*.md"}, {"path": "a.md"}])
def test_files_that_the_user_did_not_name_are_no_surprise(tree, fields):
    root = tree("a.md", "b.docx")
    path = f"{root}/{fields.pop('path', '')}"
    config = CorpusConfig(sources=[SourceConfig(format="markdown", path=path, **fields)])
    assert scan(config).sources[0].endings_not_read == {}


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("a.ipynb", {}, "(.ipynb) read with format: text: the model is trained on JSON"),
        ("a.HTML.gz", {}, "(.html) read with format: text: the model is trained on the tags"),
        ("a.html", {"markup": "html"}, None),
        ("a.jsonl", {}, "set format: json"),
        ("a.md", {}, "set format: markdown"),
        ("a.log", {}, None),
    ],
)
def test_a_file_that_is_more_than_its_text_is_announced(tree, name, fields, said):
    lines = []
    config = CorpusConfig(
        sources=[SourceConfig(format="text", path=str(tree(name) / name), **fields)]
    )
    scan(config, say=lines.append)
    assert (said is None) == (lines == [])
    assert said is None or said in lines[0]
