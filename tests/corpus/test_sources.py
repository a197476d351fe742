"""The sources of a corpus: one record for each, in one order."""

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus.sources import all_sources, corpus_sources


def test_names_are_unique_and_validation_comes_first():
    source = SourceConfig(format="markdown", path="docs/a")
    named = SourceConfig(format="markdown", path="docs/a", name="docs")
    config = CorpusConfig(sources=[source, named, source], validation_sources=[named])
    assert [(s.name, s.is_validation) for s in corpus_sources(config)] == [
        ("docs", True),
        ("docs/a", False),
        ("docs (2)", False),
        ("docs/a (2)", False),
    ]


def test_no_two_sources_have_one_name():
    sources = [
        SourceConfig(format="markdown", path="a", name=name) for name in ("a", "a", "a (2)", "a")
    ]
    names = [source.name for source in corpus_sources(CorpusConfig(sources=sources))]
    assert names == ["a", "a (2)", "a (2) (2)", "a (3)"]


def test_a_record_knows_its_key_and_how_its_text_is_used():
    config = CorpusConfig(
        sources=[
            SourceConfig(format="sentences", path="a", weight=2.0),
            SourceConfig(format="text", path="b", replay=0.1),
        ],
        validation_sources=[SourceConfig(format="text", path="v")],
        exclude_overlap_with=[SourceConfig(format="text", path="t")],
    )
    sources = list(all_sources(config))
    assert [(s.key, s.role) for s in sources] == [
        ("corpus.validation_sources[0]", "validation"),
        ("corpus.sources[0]", "train"),
        ("corpus.sources[1]", "train"),
        ("corpus.exclude_overlap_with[0]", "reference"),
    ]
    assert corpus_sources(config) == tuple(sources[:3])
    assert [s.weight for s in sources[:3]] == [1.0, 2.0, 1.0]
    assert [s.replay for s in sources[:3]] == [0.0, 0.0, 0.1]
    assert [s.is_by_lines for s in sources[:3]] == [False, True, False]
    assert next(all_sources(CorpusConfig(sources=config.sources), "evaluation.general")).key == (
        "evaluation.general[0]"
    )
