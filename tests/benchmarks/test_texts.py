import ours
import peer
import pytest
import texts


def test_both_sides_read_the_same_documents(setting):
    corpus = texts.CorpusInMemory.of(ours.config_for(setting).corpus)
    for_validation = {
        document.text: corpus.sources[document.source].validation for document in corpus.documents()
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


def test_a_folder_is_read_by_its_endings(tmp_path):
    (tmp_path / "a.md").write_text("# Title\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("text\n", encoding="utf-8")
    assert {s.format for s in texts.corpus_config(tmp_path).sources} == {"markdown", "text"}
    assert [s.format for s in texts.corpus_config(tmp_path / "b.txt").sources] == ["text"]
    with pytest.raises(texts.DataError, match="neither"):
        texts.corpus_config(tmp_path / "c")
