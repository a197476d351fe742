"""What is said before training of a run whose result would be worth little."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mlmtune.config import Config, OptimizerConfig
from mlmtune.config_loading import kind_of_config, load_config, shipped_configs
from mlmtune.evaluation.scoring import FixedMasks
from mlmtune.tokens.special_tokens import SpecialTokens
from mlmtune.tokens.splits import Chunker, build_splits
from mlmtune.training import caveats
from mlmtune.training.plan import Phase, Plan

PHASE = Phase("", 100, 12_800, global_batch_size=10, num_steps=100, optimizer=OptimizerConfig())


def plan_of(phase: Phase) -> Plan:
    return Plan((phase,), micro_batch_size=10, num_processes=1)


def assert_says(lines: Iterable[str], *patterns: str) -> None:
    """A line for each pattern, in order, and no other."""
    said = list(lines)
    assert len(said) == len(patterns), said
    for line, pattern in zip(said, patterns, strict=True):
        assert re.search(pattern, line), line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("settings", "phase", "patterns"),
    [
        ({}, PHASE, []),
        ({"learning_rate": 1e-6}, PHASE, []),
        ({"learning_rate": 1e-3}, PHASE, []),
        ({"learning_rate": 0.1}, PHASE, ["optimizer.learning_rate: 0.1 is likely to ruin"]),
        ({"learning_rate": 1e-8}, PHASE, ["optimizer.learning_rate: 1e-08 hardly changes"]),
        ({"warmup_ratio": 0.5}, PHASE, []),
        ({"warmup_steps": 60}, PHASE, ["the learning rate rises for 60 of 100 steps"]),
        ({}, replace(PHASE, num_steps=1500), []),
        ({}, replace(PHASE, num_steps=2000), ["passes 200 times over 100 .*max_steps to 1,500"]),
    ],
)
def test_a_schedule_that_is_unlikely_to_work(
    settings: dict[str, Any], phase: Phase, patterns: list[str]
) -> None:
    phase = replace(phase, optimizer=OptimizerConfig(**settings))
    assert_says(caveats.of_schedule(plan_of(phase), "chunks"), *patterns)
    named = caveats.of_schedule(plan_of(replace(phase, name="decay")), "chunks")
    assert all(line.startswith("phase decay: ") for line in named)


@pytest.mark.parametrize("name", list(shipped_configs()))
def test_no_false_alarm_on_the_schedules_that_come_with_mlmtune(name: str) -> None:
    path = shipped_configs()[name]
    config = load_config(path, kind=kind_of_config(path))
    batch = config.training.global_batch_size
    phase = Phase.of(
        config.training, config.optimizer, num_chunks=25 * batch, num_tokens=3200 * batch
    )
    training = config.training
    if training.max_steps is None and training.max_tokens is None:  # else its text is as large
        assert_says(caveats.of_schedule(plan_of(phase), "chunks"))


@pytest.fixture
def said_of(make_store: Any, tokenizer: Any) -> Callable[..., list[str]]:
    """What is said of a run on documents of some lengths, in tokens."""

    def say(
        lengths: list[int], unknown_share: float = 0.0, **sections: dict[str, Any]
    ) -> list[str]:
        sections["training"] = sections.get("training", {"max_steps": 30})
        sections["corpus"] = {
            "sources": [{"format": "text", "path": "x"}], **sections.get("corpus", {}),
        }  # fmt: skip
        config = Config.model_validate(
            {"run": {"output_dir": "x"}, "model": {"name_or_path": "x"}} | sections
        )
        store = make_store([[10] * length for length in lengths])
        num_unknown = (store.documents.lengths * unknown_share).astype(np.int64)
        documents = replace(store.documents, num_unknown_tokens=num_unknown)
        store = replace(store, documents=documents)
        chunker = Chunker(config.chunking, SpecialTokens((2,), (3,), (3,)), 0)
        splits = build_splits(store, config.corpus, chunker)
        masks = FixedMasks(
            splits.validation, tokenizer, config.evaluation, with_token_type_ids=True
        )
        phase = Phase.of(
            config.training, config.optimizer, num_chunks=len(splits.train),
            num_tokens=splits.train.num_tokens,
        )  # fmt: skip
        # General text of a few tokens, where the config names some.
        general = None
        if config.evaluation.general:
            view = build_splits(make_store([[10] * 60] * 2), config.corpus, chunker).train
            general = FixedMasks(view, tokenizer, config.evaluation, with_token_type_ids=True)
        return list(caveats.of_masked_lm(config, plan_of(phase), splits, masks, general))

    return say


SMALL_STEPS = {"max_steps": 30, "global_batch_size": 4}
THIRD = {"validation_fraction": 0.3}
OF_A_RUN = "the base is the result of .*first, .* set corpus.split_seed as in"


@pytest.mark.parametrize(
    ("lengths", "sections", "patterns"),
    [
        ([800] * 100, {"corpus": THIRD}, []),
        (
            [20] * 100, {"corpus": THIRD, "training": SMALL_STEPS},
            [r"is about \d+ masked tokens, .* \(0.3 now\)"],
        ),
        ([5000] * 20, {"corpus": THIRD}, [r"is \d documents, too little .* add documents"]),
        (
            [10_000] * 2, {"corpus": {"validation_fraction": 0.2}},
            ["is 1 document, too little", "is 50.0% of the characters, .* asks for 20.0%"],
        ),
        (  # more chunks would be of the same documents
            [5000] * 20, {"corpus": THIRD, "evaluation": {"max_chunks": 200}},
            [r"is \d documents, too little .* add documents"],
        ),
        (
            [800] * 100, {"corpus": THIRD, "evaluation": {"max_chunks": 5}},
            ["raise evaluation.max_chunks"],
        ),
        (
            [800] * 100, {"corpus": THIRD, "training": {"global_batch_size": 5000}},
            [r"a step takes 5,000 chunks and the training text has \d{3}, so"],
        ),
        (
            [800] * 100, {"corpus": THIRD, "training": {"epochs": 0.01}},
            ["the whole run is 1 step, which hardly"],
        ),
        ([800] * 100, {"corpus": THIRD, "training": {"max_steps": 1}}, []),
        (
            [800] * 100, {"corpus": THIRD, "evaluation": {"general": "general.txt"}},
            ["evaluation.general has about 60 masked tokens, too few"],
        ),
        (
            [800] * 99 + [500_000], {"corpus": {"validation_fraction": 0.3}},
            [r"asks for 30.0%: documents are whole"],
        ),
    ],
)  # fmt: skip
def test_text_that_is_too_little_or_split_otherwise_than_asked(
    said_of: Callable[..., list[str]], lengths: list[int], sections: Any, patterns: list[str]
) -> None:
    assert_says(said_of(lengths, **sections), *patterns)


def test_unknown_tokens_are_not_counted_among_the_masked(
    said_of: Callable[..., list[str]],
) -> None:
    lengths = [400] * 100
    assert_says(said_of(lengths, corpus=THIRD, training=SMALL_STEPS))
    said = said_of(lengths, unknown_share=0.95, corpus=THIRD, training=SMALL_STEPS)
    assert_says(said, r"is about \d{3} masked tokens")


@pytest.mark.parametrize(
    ("named", "changed", "patterns"),
    [
        ("first/model", {}, []),
        ("first/model", {"split_seed": 7}, [OF_A_RUN]),
        ("first", {"split_seed": 7}, [OF_A_RUN]),
        (
            "first/model",
            {"sources": [{"format": "text", "path": "elsewhere"}], "split_seed": 7},
            [],
        ),
    ],
)
def test_a_base_that_was_trained_on_what_is_validated_on(
    said_of: Callable[..., list[str]],
    tmp_path: Path,
    named: str,
    changed: dict[str, Any],
    patterns: list[str],
) -> None:
    run = tmp_path / "first"
    run.mkdir()
    (run / "status.json").write_text('{"state": "finished"}', encoding="utf-8")
    then = {
        "run": {"output_dir": str(run)},
        "model": {"name_or_path": "x"},
        "corpus": {"sources": [{"format": "text", "path": "x"}], **THIRD, **changed},
    }
    (run / "config.resolved.yaml").write_text(yaml.safe_dump(then), encoding="utf-8")
    (run / "corpus.json").write_text('{"validation": {"fingerprint": "another"}}')
    model = {"name_or_path": str(tmp_path / named)}
    assert_says(said_of([800] * 100, corpus=THIRD, model=model), *patterns)
