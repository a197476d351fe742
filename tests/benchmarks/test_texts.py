from itertools import islice

import ours
import peer
import pytest
import texts


def test_both_sides_read_the_same_documents(setting):
    corpus = texts.CorpusInMemory.of(ours.config_for(setting).corpus)
    for_validation = {
        document.text: corpus.sources[document.source].is_validation
        for document in corpus.documents()
    }
    cache = setting.workspace / "peer"
    for path, side in ((setting.train, False), (setting.validation, True)):
        read_by_us = [text for text, validation in for_validation.items() if validation == side]
        assert read_by_us
        assert read_by_us == list(peer.load_documents(path, cache)["text"]) == texts.read(path)


def test_copies_are_no_duplicates_and_lose_no_line():
    documents = ["one\ntwo\nthree", "four"]
    many = list(texts.just_reaching(documents, 200))
    assert many[:2] == documents
    assert len(set(many)) == len(many)
    assert sum(map(len, many[:-1])) < 200 <= sum(map(len, many))
    assert sorted(texts.perturbed(documents[0], 4).splitlines()[1:]) == ["one", "three", "two"]


def test_text_is_cut_where_there_is_too_much():
    assert list(texts.just_reaching(["a" * 6, "b" * 6, "c" * 6], 10)) == ["a" * 6, "b" * 6]


def test_pages_are_repeated_with_their_sections_dealt_anew(tmp_path):
    pages = [f"# Page {page}\n\n" for page in range(5)]
    pages = [page + "".join(f"## {page[2:8]}{n}\n" for n in range(3)) for page in pages]
    many = list(islice(texts.dealt(pages), 20))
    assert many[:5] == pages
    assert len(set(many)) == 20
    for page, copy in zip(pages, many[5:10], strict=True):
        assert copy.startswith(page.split("## ")[0])
        assert copy.endswith("\nCopy 1.\n")
    sections = [section for page in pages for section in texts.SECTION.split(page)[1:]]
    dealt = [texts.SECTION.split(copy)[1:] for copy in many[5:10]]
    assert {s.split("\n")[0] for page in dealt for s in page} <= {s.strip() for s in sections}


def test_pages_are_written_until_there_are_enough(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.md").write_text("# One\n## Two\nthree", encoding="utf-8")
    folder = tmp_path / "pages"
    num_bytes = texts.write_pages(tmp_path / "text", folder, 40)
    written = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.md"))]
    assert written[0] == "# One\n## Two\nthree"
    assert sum(map(len, written)) == num_bytes >= 40 > num_bytes - len(written[-1])


def test_pages_need_markdown(tmp_path):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(texts.DataError, match=r"has no \.md files"):
        texts.write_pages(tmp_path, tmp_path / "pages", 40)


def test_a_folder_is_read_by_its_endings(tmp_path):
    (tmp_path / "a.md").write_text("# Title\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("text\n", encoding="utf-8")
    assert {s.format for s in texts.corpus_config(tmp_path).sources} == {"markdown", "text"}
    assert [s.format for s in texts.corpus_config(tmp_path / "b.txt").sources] == ["text"]
    with pytest.raises(texts.DataError, match="neither"):
        texts.corpus_config(tmp_path / "c")
