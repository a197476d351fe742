"""The schema, and the configs that come with it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from mlmtune.config import ClassificationConfig, Config, CorpusConfig, SourceConfig
from mlmtune.config_loading import SHIPPED_TASKS, load_config, shipped_configs
from mlmtune.config_problems import NAMES_IN_TRANSFORMERS, known_keys

ROOT = Path(__file__).parent.parent
LEAST: dict[str, Any] = {
    "run": {"output_dir": "runs/x"},
    "model": {"name_or_path": "x"},
    "corpus": {"sources": [{"format": "text", "path": "x"}]},
}


def with_settings(**sections: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {**LEAST.get(name, {}), **sections.get(name, {})} for name in {**LEAST, **sections}
    }


def sections() -> Iterator[type[BaseModel]]:
    waiting: list[type[BaseModel]] = [Config, SourceConfig]
    while waiting:
        section = waiting.pop()
        yield section
        for field in section.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                waiting.append(field.annotation)


def test_three_settings_are_enough() -> None:
    config = Config.model_validate(LEAST)
    assert config.chunking.chunk_length == 128
    assert config.masking.mlm_probability == 0.15


@pytest.mark.parametrize("name", list(shipped_configs()))
def test_each_shipped_config_loads(name: str) -> None:
    kind = ClassificationConfig if name in SHIPPED_TASKS else Config
    config = load_config(shipped_configs()[name], kind=kind)
    assert config.run.output_dir == f"runs/{name}"


def test_the_shipped_configs_are_those_beside_the_package() -> None:
    assert {"quickstart", "azure", "wikitext", "wikitext-zh"} <= set(shipped_configs())
    assert set(shipped_configs().values()) == set((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name not in SHIPPED_TASKS])
def test_each_example_of_a_shipped_config_has_one_mask(name: str) -> None:
    examples = load_config(shipped_configs()[name]).evaluation.examples
    assert examples
    assert all(example.count("[MASK]") == 1 for example in examples)


@pytest.mark.parametrize("section", list(sections()), ids=lambda section: section.__name__)
def test_every_key_is_documented(section: type[BaseModel]) -> None:
    assert section.__doc__
    if section is not Config:  # its keys are sections, documented by their classes
        undocumented = [key for key, field in section.model_fields.items() if not field.description]
        assert undocumented == []


def test_every_section_of_the_design_is_there() -> None:
    assert list(Config.model_fields) == [
        "run",
        "model",
        "corpus",
        "tokenization",
        "vocabulary",
        "chunking",
        "masking",
        "objective",
        "optimizer",
        "training",
        "phases",
        "evaluation",
        "checkpoint",
        "tracking",
        "hub",
        "engine",
    ]


def test_names_from_transformers_lead_to_settings_that_exist() -> None:
    assert set(NAMES_IN_TRANSFORMERS.values()) <= set(known_keys())


def test_a_loaded_config_cannot_be_changed() -> None:
    config = Config.model_validate(LEAST)
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 5  # type: ignore[misc]


TEXT = {"format": "text", "path": "x"}
CSV = {"format": "csv", "path": "x"}
GIT = {"format": "text", "git": "https://h/x"}
DATASET = {"format": "dataset", "dataset": "a/b"}
NOTES = TEXT | {"name": "notes"}
LIKE_NOTES = TEXT | {"select": {"like": "notes", "fraction": 0.1}}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"masking": {"mask_replace_prob": 0.8, "random_replace_prob": 0.3}}, "must not exceed 1"),
        ({"training": {"micro_batch_size": 32, "global_batch_size": 16}}, "is larger than"),
        ({"chunking": {"mode": "per_document", "special_tokens": "document"}}, "concatenate"),
        ({"corpus": {"max_train_chunks": 5}}, "need split_by: chunk"),
        (
            {
                "corpus": {
                    "split_by": "chunk",
                    "validation_sources": [{"format": "text", "path": "v"}],
                }
            },
            "does not go with validation_sources",
        ),
        ({"corpus": {"sources": []}}, "at least 1"),
        ({"corpus": {"sources": [{"format": "python", "path": "x"}]}}, "needs text_field"),
        (
            {"corpus": {"sources": [{"format": "text", "path": "x", "text_field": "t"}]}},
            "no meaning for format 'text'",
        ),
        *(
            ({"corpus": {"sources": [TEXT], **corpus}}, complaint)
            for corpus, complaint in [
                ({"sources": [{"format": "text"}]}, "no location to read from"),
                ({"sources": [TEXT | {"git": "file:///x"}]}, "path and git contradict"),
                ({"sources": [TEXT | {"path": []}]}, "an empty list"),
                ({"sources": [TEXT | {"dataset": "a/b"}]}, "contradict each other"),
                ({"sources": [{"format": "text", "dataset": "a/b"}]}, "go together"),
                ({"sources": [TEXT | {"split": "test"}]}, "split has no meaning"),
                ({"sources": [TEXT | {"encoding": "cp-1252x"}]}, "did you mean cp1252"),
                ({"sources": [TEXT | {"encoding": "hex"}]}, "there is no encoding 'hex'"),
                ({"sources": [TEXT | {"encoding": "punycode"}]}, "there is no encoding"),
                ({"sources": [DATASET | {"encoding": "cp1252"}]}, "encoding has no meaning"),
                ({"sources": [TEXT | {"delimiter": ";"}]}, "delimiter has no meaning"),
                ({"sources": [CSV | {"delimiter": "ab"}]}, "expected one character"),
                ({"sources": [CSV | {"record_path": "a"}]}, "record_path has no meaning"),
                (
                    {"sources": [TEXT | {"format": "sentences", "markup": "html"}]},
                    "markup has no meaning",
                ),
                ({"sources": [TEXT | {"revision": "v1"}]}, "revision has no meaning"),
                ({"sources": [TEXT | {"streaming": True}]}, "streaming has no meaning"),
                ({"sources": [DATASET | {"streaming": True}]}, "streaming needs max_documents"),
                ({"sources": [DATASET | {"include": ["*"]}]}, "a dataset has none"),
                ({"sources": [TEXT | {"path": "https://u:p@h/x"}]}, "holds credentials"),
                ({"sources": [GIT | {"git": "https://token@h/x"}]}, "holds credentials"),
                ({"sources": [GIT | {"git": "https://h/x?private_token=1"}]}, "without a query"),
                ({"sources": [GIT | {"git": "ssh://git@-oProxyCommand=x/y"}]}, "begins with https"),
                ({"sources": [GIT | {"git": "--upload-pack=x"}]}, "begins with https"),
                ({"sources": [GIT | {"revision": "--x"}]}, "not the name of a branch"),
                ({"split_by": "chunk", "sources": [TEXT | {"weight": 2.0}]}, "weight or replay"),
                ({"validation_sources": [TEXT | {"weight": 2.0}]}, "weight has no meaning"),
                ({"exclude_overlap_with": [TEXT | {"max_documents": 1}]}, "max_documents has no"),
                (
                    {"sources": [NOTES | {"name": "note"}, LIKE_NOTES]},
                    r"sources\[1\].select.like: no source .* the name notes; did you mean note",
                ),
                ({"sources": [NOTES, NOTES, LIKE_NOTES]}, "like: several sources .* name notes"),
                ({"sources": [TEXT, NOTES | LIKE_NOTES]}, "like: notes is the source itself"),
                (
                    {"sources": [LIKE_NOTES, NOTES | {"select": {"like": "x", "fraction": 0.1}}]},
                    "like: notes is selected itself",
                ),
                ({"sources": [NOTES | {"replay": 0.1}, LIKE_NOTES]}, "like: notes is replay"),
                ({"sources": [NOTES, LIKE_NOTES | {"replay": 0.1}]}, "replay is general text"),
                ({"sources": [NOTES, TEXT | {"select": {"like": "notes"}}]}, "Field required"),
                *(
                    (
                        {"sources": [NOTES, TEXT | {"select": {"like": "notes", "fraction": n}}]},
                        f"than {int(n > 0)}",
                    )
                    for n in (0.0, 1.0)
                ),
                ({"sources": [NOTES], "validation_sources": [LIKE_NOTES]}, "select has no meaning"),
            ]
        ),
        ({"checkpoint": {"export": "first"}}, "expected best or last, got 'first'"),
        (
            {"optimizer": {"schedule": "constant", "final_learning_rate_ratio": 0.1}},
            "final_learning_rate_ratio has no meaning with schedule: constant",
        ),
        ({"training": {"epochs": 0}}, "greater than 0"),
        ({"training": {"epochs": "3"}}, "valid number"),
        ({"training": {"max_steps": True}}, "valid integer"),
        ({"masking": {"mlm_probability": 1.5}}, "less than or equal to 1"),
    ],
)
def test_settings_that_contradict_each_other_or_their_type_are_refused(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Config.model_validate(with_settings(**settings))


@pytest.mark.parametrize(
    ("given", "format_"),
    [
        ("test.jsonl", "json"),
        ("a/test.csv.gz", "csv"),
        ("test.parquet", "parquet"),
        ("page.md", "markdown"),
        ("test.txt", "lines"),
    ],
)
def test_a_path_alone_names_text_that_must_not_be_learned(given: str, format_: str) -> None:
    corpus = {"sources": [TEXT], "exclude_overlap_with": given}
    (source,) = CorpusConfig.model_validate(corpus).exclude_overlap_with
    assert (source.path, source.format) == (given, format_)


SOURCES = [
    {"format": "text", "path": "a", "name": "notes"},
    {"format": "text", "path": "b"},
    {"format": "text", "path": "c", "name": "wiki", "replay": 0.1},
]
ONE = {"name": "one", "max_steps": 5}
TWO = {"name": "two", "epochs": 1.0}


def phased(*phases: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    corpus = {"sources": SOURCES, **sections.pop("corpus", {})}
    return {**with_settings(corpus=corpus, **sections), "phases": list(phases)}


@pytest.mark.parametrize(
    ("phases", "sections", "complaint"),
    [
        ([{"name": "one"}], {}, "phase one has no end; give one of share, max_steps"),
        ([{**ONE, "epochs": 1.0}], {}, "phase one: max_steps and epochs contradict"),
        ([{**ONE, "max_steps": 0}], {}, "greater than or equal to 1"),
        ([ONE, ONE], {}, "two phases are named one"),
        ([{**ONE, "name": "best"}], {}, "best has a meaning in checkpoint.export"),
        ([{**ONE, "name": "a b"}], {}, "expected a name of letters"),
        ([ONE, {"name": "two", "share": 0.5}], {}, "all of them a share, or none; 1 of 2"),
        ([{"name": "one", "share": 0.5}], {}, "add up to 0.5; they must add up to 1"),
        ([ONE], {"training": {"max_steps": 9}}, "training.max_steps has no meaning with phases"),
        ([ONE], {"checkpoint": {"export": "two"}}, "expected best or last or one, got 'two'"),
        (
            [ONE],
            {"checkpoint": {"export": "one"},
             "evaluation": {"general": "x.txt", "max_forgetting": 0.1}},
            "does not go with checkpoint.export: one",
        ),
        ([{**ONE, "sources": {"note": 1}}], {}, "phase one: sources: no source .*mean notes"),
        ([{**ONE, "sources": {"x": 1}}], {}, r"the name x \(a source has the name that its key"),
        ([{**ONE, "sources": {"wiki": 0.1}}], {}, "phase one: sources: all of them are replay"),
        ([{**ONE, "sources": {"notes": 1, "wiki": 1}}], {}, "phase one: sources: replay adds up"),
        (
            [{**ONE, "sources": {"notes": 1}}],
            {"corpus": {"sources": [SOURCES[0], SOURCES[0]]}},
            "several sources in corpus.sources has the name notes",
        ),
        ([{**ONE, "warmup_steps": 6}], {}, "phase one: warmup_steps: 6 is more than its steps: 5"),
        (
            [{**ONE, "schedule": "constant", "final_learning_rate_ratio": 0.5}], {},
            "phase one: final_learning_rate_ratio has no meaning",
        ),
        (
            [{**ONE, "chunk_length": 64}],
            {"corpus": {"sources": SOURCES[:2], "split_by": "chunk"}},
            "phase one: sources and chunk_length need corpus.split_by: document",
        ),
    ],
)  # fmt: skip
def test_phases_that_cannot_be_are_refused_by_their_names(
    phases: list[dict[str, Any]], sections: dict[str, dict[str, Any]], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Config.model_validate(phased(*phases, **sections))


def test_a_phase_has_the_settings_that_it_names_and_else_those_of_the_run() -> None:
    changes = {
        "learning_rate": 1e-3, "schedule": "constant", "mlm_probability": 0.4, "strategy": "token",
        "chunk_length": 64, "global_batch_size": 4, "sources": {"b": 2, "wiki": 0.3},
    }  # fmt: skip
    config = Config.model_validate(
        phased(
            ONE, {**TWO, **changes},
            optimizer={"weight_decay": 0.1, "warmup_steps": 2, "final_learning_rate_ratio": 0.5},
            masking={"strategy": "span", "span_max_words": 3},
            training={"micro_batch_size": 8},
        )
    )  # fmt: skip
    one, two = config.by_phase
    assert one == config.model_copy(
        update={"phases": [], "training": config.training.model_copy(update={"max_steps": 5})}
    )
    optimizer, training = two.optimizer, two.training
    assert (optimizer.learning_rate, optimizer.weight_decay) == (1e-3, 0.1)
    assert (optimizer.warmup_steps, optimizer.warmup_ratio) == (None, 0.0)
    assert (optimizer.schedule, optimizer.final_learning_rate_ratio) == ("constant", 0.0)
    assert (training.epochs, training.global_batch_size, training.micro_batch_size) == (1.0, 4, 4)
    assert (two.masking.strategy, two.masking.mlm_probability) == ("token", 0.4)
    assert two.chunking.chunk_length == 64
    assert [source.weight for source in two.corpus.sources] == [0, 2, 1]
    assert [source.replay for source in two.corpus.sources] == [None, None, 0.3]
    assert config.model_copy(update={"phases": []}).by_phase[0].phases == []


@given(
    parts=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    whole=st.integers(6, 10_000),
)
def test_shares_add_up_to_the_whole(parts: list[int], whole: int) -> None:
    phases = [
        {"name": f"p{number}", "share": part / sum(parts)} for number, part in enumerate(parts)
    ]
    config = Config.model_validate(phased(*phases, training={"max_steps": whole}))
    steps = [phase.training.max_steps or 0 for phase in config.by_phase]
    assert sum(steps) == whole
    assert min(steps) >= 1


def test_shares_that_add_up_to_one_in_floating_point_are_accepted() -> None:
    settings = {"mask_replace_prob": 0.7, "random_replace_prob": 0.3}
    Config.model_validate(with_settings(masking=settings))


def test_defaults_are_not_shared_between_configs() -> None:
    first = CorpusConfig.model_validate(LEAST["corpus"])
    second = CorpusConfig.model_validate(LEAST["corpus"])
    assert first.validation_sources is not second.validation_sources


def test_loading_a_config_imports_no_torch() -> None:
    code = (
        "import sys; from mlmtune.config_loading import load_config, shipped_configs; "
        "load_config(shipped_configs()['quickstart']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
