"""Runs and reports, made of the changes that their measurements found."""

from dataclasses import replace
from typing import Any

from mlmtune.config import Config
from mlmtune.config_loading import recorded_yaml
from mlmtune.report.findings import (
    Change,
    Estimate,
    Measurement,
    Model,
    Report,
    RetrievalFindings,
    RetrievalMeasurement,
    RetrievalMeasures,
    Run,
    Text,
)
from mlmtune.report.verdict import judge

BETTER, WORSE = Estimate(-0.5, (-0.6, -0.4)), Estimate(0.3, (0.2, 0.4))
SLIGHTLY, UNCLEAR = Estimate(0.05, (0.01, 0.09)), Estimate(-0.1, (-0.3, 0.1))
BASE = Model("old", None, "hub/old", False, "one")
ADAPTED = Model("new", "old", "runs/new/model", False, "one", compared_with="old")


CONFIG = recorded_yaml(
    Config.model_validate(
        {
            "run": {"output_dir": "my runs/new"},
            "model": {"name_or_path": "old"},
            "corpus": {"sources": [{"format": "text", "path": "texts"}]},
            "optimizer": {"learning_rate": 5e-4},
        }
    )
)


def finished(losses: tuple[float, ...] = (3.0, 2.5, 2.49), **results: Any) -> Run:
    """Return a run whose validation losses are given, and further fields of its results."""
    evaluations = tuple({"step": step, "eval_loss": loss} for step, loss in enumerate(losses))
    results = {"model_head_was_new": False, "loss_fell": True, "step": 2, **results}
    train_results = {
        "global_step": 2, "train_runtime": 90.0, "peak_memory_bytes": 2e9, "num_tokens": 12_345,
        "epoch": 0.5, "train_tokens_per_second": 137.0,
    }  # fmt: skip
    corpus = {
        "documents": {"found": 9, "left_out": {"too_short": 1}, "kept": 8},
        "characters": {"found": 90, "left_out": {"too_short": 1}, "kept": 80, "cleaned_away": {}},
    }
    environment = {"python": "3", "packages": {"torch": "2"}}
    return Run(
        "new", "my runs/new", (), evaluations, train_results, results, corpus, CONFIG, environment
    )


def text(kind: str, change: Estimate, num_documents: int = 50) -> Text:
    def measured(model: str, loss: float, share: float, change: Change | None) -> Measurement:
        return Measurement(
            model, 1000, 1000, Estimate(loss), Estimate(10 * loss), None, None,
            Estimate(share), Estimate(0.6), change, 0.0, 0.0,
        )  # fmt: skip

    points = Estimate(0.25, (0.2, 0.3))
    after = measured("new", 3.0, 0.65, Change(change, points, points))
    unit = "documents" if num_documents >= 20 else "chunks"
    return Text(kind, kind, num_documents, 100, 1, unit, (measured("old", 3.5, 0.4, None), after))


def pages(change: Estimate, against_bm25: Estimate = UNCLEAR) -> RetrievalFindings:
    """Say that 77 % of the pages were found first before training, and 40 % after."""

    def measured(
        model: str, share: float, changes: RetrievalMeasures | None = None
    ) -> RetrievalMeasurement:
        measures = RetrievalMeasures(*4 * [Estimate(share)])
        return RetrievalMeasurement(model, measures, changes, against_bm25, 0.5)

    points = Estimate(-0.37, (-0.5, -0.2))
    after = measured("new", 0.4, RetrievalMeasures(points, points, points, change))
    return RetrievalFindings(300, 300, (measured("old", 0.77), after, measured("BM25", 0.8)))


def report(
    *changes: Estimate,
    is_new: bool = False,
    found: RetrievalFindings | None = None,
    run: Run | None = None,
    num_documents: int = 50,
) -> Report:
    """Make a report by the changes of the loss, on the text of the domain first."""
    run = run or finished(model_head_was_new=is_new)
    texts = tuple(
        text(kind, change, num_documents)
        for kind, change in zip(("domain", "general"), changes, strict=False)
    )
    base, adapted = replace(BASE, head_is_new=is_new), ADAPTED
    models = (base, adapted)
    if is_new:
        adapted = replace(adapted, compared_with="frequencies")
        models = (base, Model("frequencies", None, "", False, "one"), adapted)
        texts = tuple(
            replace(
                t, measurements=(*t.measurements, replace(t.measurements[0], model="frequencies"))
            )
            for t in texts
        )
    return Report(
        "title", "now", "1", (judge(adapted, texts, run, found),), models, (), texts,
        general_is_missing=len(texts) == 1, gained=(), lost=(), questions=(), runs=(run,),
        retrieval=found,
    )  # fmt: skip
