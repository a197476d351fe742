"""What `retrieval.py` measures, in a process of its own."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.evaluation.retrieval import RetrievalProbe
from mlmtune.modeling.device import build_accelerator, precision_of
from mlmtune.training.setup import load_model_and_text


def seconds(path: str, num_rounds: int, num_chunks: int) -> dict[str, Any]:
    """Return the CPU seconds of retrieval and of perplexity, round by round, and their sizes."""
    config = load_config(Path(path))
    accelerator = build_accelerator(config.training.precision)
    device, precision = accelerator.device, precision_of(accelerator)
    setup = load_model_and_text(config, device, precision, Console(is_quiet=True))
    model, evaluator = accelerator.prepare_model(setup.loaded.model), setup.evaluator
    probe = RetrievalProbe.of(setup.splits, setup.loaded, config.corpus, config.evaluation)
    num_all = len(evaluator.masks.chunks)
    evaluator.masks.chunks = evaluator.masks.chunks[:num_chunks]
    scale = num_all / len(evaluator.masks.chunks)
    rounds = [
        (
            _cpu_seconds(lambda: probe.run(accelerator, model)),
            _cpu_seconds(lambda: evaluator.run(accelerator, model, setup.head)) * scale,
        )
        for _ in range(num_rounds)
    ]
    retrieval, perplexity = zip(*rounds, strict=True)
    return {
        "retrieval": retrieval,
        "perplexity": perplexity,
        "documents": len(probe.pool),
        "chunks": num_all,
        "draws": evaluator.masks.num_draws,
    }


def _cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
