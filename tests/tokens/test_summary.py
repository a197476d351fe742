"""corpus.json and its tables: the sums are those of the store, and every number is shown."""

import json

import numpy as np
import pytest
from stores import text_of

from mlmtune.config import ChunkingConfig, CorpusConfig, SourceConfig
from mlmtune.tokens.splits import TextNeeds, open_splits
from mlmtune.tokens.summary import summarize
from mlmtune.tokens.summary_text import describe

TEXTS = {
    "a/1.txt": "the storage account " * 30,
    "a/2.txt": "the storage  account " * 30,
    "a/3.txt": "kubernetes " * 40 + "deploy",
    "a/4.txt": "x",
    "a/5.txt": "",
    "b/6.txt": "key vault, node pool " * 50,
    "b/7.txt": "a container registry 服务 " * 20,
}


@pytest.fixture
def summary(tmp_path, tokenizer):
    for name, text in TEXTS.items():
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def make(chunking=None, weight=2.0, select=None, **settings):
        config = CorpusConfig(
            sources=[
                SourceConfig(format="text", path=str(tmp_path / "docs" / "a"), name="a"),
                SourceConfig(
                    format="text",
                    path=str(tmp_path / "docs" / "b"),
                    name="b",
                    weight=weight,
                    select=select,
                ),
            ],
            **{"min_characters": 2, "validation_fraction": 0.3, **settings},
        )
        store, splits = open_splits(
            text_of(config), TextNeeds(), chunking or ChunkingConfig(chunk_length=16), tokenizer
        )
        return json.loads(json.dumps(summarize(store, splits, tokenizer, 0))), store

    return make


def test_both_sums_add_up_in_total_and_by_source(summary):
    whole, store = summary()
    for part in (whole, *whole["sources"].values()):
        documents, characters = part["documents"], part["characters"]
        assert documents["found"] == documents["kept"] + sum(documents["left_out"].values())
        assert characters["found"] == characters["kept"] + sum(
            sum(characters[name].values()) for name in ("cleaned_away", "left_out")
        )
        assert part["tokens"] > 0
    assert whole["documents"]["left_out"] == {"too_short": 1, "duplicate": 1}
    assert whole["characters"]["found"] == sum(map(len, TEXTS.values()))
    assert whole["tokens"] == sum(source["tokens"] for source in whole["sources"].values())
    sides = [whole[side] for side in ("train", "validation")]
    for name in ("documents", "characters", "tokens"):
        total = whole[name] if name == "tokens" else whole[name]["kept"]
        assert sum(side[name] for side in sides) == total
    assert whole["fingerprint"] == store.fingerprint


def test_unknown_tokens_are_counted_by_source(summary):
    whole, _ = summary()
    assert whole["sources"]["a"]["unknown_tokens"] == 0
    assert whole["sources"]["b"]["unknown_tokens"] == 40  # a character each
    assert whole["unknown_tokens"] == 40


def test_an_epoch_counts_weights(summary):
    whole, _ = summary()
    assert [source["weight"] for source in whole["sources"].values()] == [1.0, 2.0]
    assert whole["train"]["epoch"]["chunks"] > whole["train"]["chunks"]
    epoch_tokens = {name: source["epoch_tokens"] for name, source in whole["sources"].items()}
    plain, _ = summary(weight=1.0)
    for name, source in plain["sources"].items():
        assert epoch_tokens[name] == source["epoch_tokens"] * whole["sources"][name]["weight"]
    assert (
        sum(source["epoch_tokens"] for source in plain["sources"].values())
        == (plain["train"]["tokens"])
    )


def test_lengths_are_all_in_the_histogram(summary):
    whole, store = summary()
    bins = whole["lengths"]["histogram"]
    for entry in bins:
        inside = (store.documents.lengths >= entry["from"]) & (
            store.documents.lengths < entry["below"]
        )
        assert entry["documents"] == inside.sum()
    assert sum(entry["documents"] for entry in bins) == store.num_documents
    assert bins[0]["documents"] > 0
    assert whole["lengths"]["longest"] == store.documents.lengths.max()


def test_the_costliest_words_come_with_their_pieces(summary):
    whole, _ = summary()
    (first, *_) = whole["fragmented_words"]
    assert first["word"] == "kubernetes"
    assert first["count"] == 40
    assert "".join(piece.removeprefix("##") for piece in first["pieces"]) == "kubernetes"
    assert 1.0 < whole["tokens_per_word"] < len(first["pieces"])


def test_the_tables_show_every_count(summary):
    whole, _ = summary()
    lines = list(describe(whole))
    text = "\n".join(lines)
    for title in ("found", "cleaned", "kept", "training", "validation", "tokens per word"):
        assert title in text
    row = next(line.split() for line in lines if line.startswith("kept"))
    assert row[1:] == [f"{whole[name]['kept']:,}" for name in ("documents", "characters")]
    assert next(line.split() for line in lines if "too short" in line)[2:] == ["-1", "-1"]
    assert "7 files found, 6 read; left out: empty 1" in text
    assert "5.txt  empty: no bytes" in text
    assert "kubernetes" in text
    assert "2.txt" in text  # the duplicate, with what it repeats
    assert not any(line.endswith(" ") for line in lines)
    assert all(lines[n] or lines[n + 1] for n in range(len(lines) - 1))


def test_documents_in_other_languages_are_named_with_their_language(summary):
    whole, _ = summary(weight=1.0, split_by="chunk", languages=["zh"])
    lines = list(describe(whole))
    title = lines.index("documents in other languages")
    named = [(found["document"], found["language"]) for found in whole["other_languages"]]
    assert named[0][0].startswith("a: ")
    assert lines[title + 1 :][: len(named)] == [f"  {id_}  {language}" for id_, language in named]


def test_the_most_and_the_least_selected_documents_are_shown_with_their_scores(summary):
    whole, _ = summary(select={"like": "a", "fraction": 0.5})
    lines = list(describe(whole))
    (selected,) = whole["selections"]
    total = selected["num_kept"] + selected["num_left_out"]
    first = lines.index("the documents of b that are most like a, with their scores")
    assert lines[first + 1].startswith(f"  {selected['num_kept']} of {total} are kept, down to ")
    best = selected["most_alike"][0]
    assert lines[first + 5] == f"    {best['score']:5.2f}  {best['document']}"
    assert any(line.split()[:2] == ["not", "selected"] for line in lines)


def test_what_chunking_cuts_off_is_told(summary):
    chunking = ChunkingConfig(chunk_length=16, mode="per_document", long_documents="truncate")
    whole, _ = summary(chunking)
    assert any("cut off by the settings of chunking" in line for line in describe(whole))


def test_documents_split_by_chunk_have_no_side(summary, tmp_path):
    whole, _ = summary(weight=1.0, split_by="chunk")
    assert whole["train"]["documents"] is None
    assert any(line.startswith("training") for line in describe(whole))


def test_a_sample_of_a_larger_corpus_is_bounded(summary, monkeypatch):
    monkeypatch.setattr("mlmtune.tokens.summary.SAMPLE_TOKENS", 50)
    whole, store = summary()
    assert 0 < whole["sampled_words"] <= 100 < store.num_tokens
    assert np.isfinite(whole["tokens_per_word"])


def test_pairs_are_counted_where_there_are_some(tmp_path, tokenizer):
    folder = tmp_path / "sentences"
    folder.mkdir()
    for number in range(20):
        text = "The node is new. " * (number % 4) + f"The pool is {number}."
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    config = CorpusConfig(
        sources=[SourceConfig(format="text", path=str(folder))], validation_fraction=0.3
    )
    store, splits = open_splits(
        text_of(config), TextNeeds("mlm+nsp"), ChunkingConfig(chunk_length=16), tokenizer
    )
    whole = summarize(store, splits, tokenizer, 0)
    for side, pairs in (("train", splits.train_pairs), ("validation", splits.validation_pairs)):
        assert whole[side]["pairs"] == len(pairs)
        assert whole[side]["tokens_without_pair"] == pairs.num_tokens_left_out
    assert whole["train"]["epoch"]["chunks"] == len(splits.train_pairs)
    lines = list(describe(whole))
    assert any(line.startswith(f"an epoch is {len(splits.train_pairs)} pairs") for line in lines)
    assert any("no second sentence to make a pair with" in line for line in lines)
