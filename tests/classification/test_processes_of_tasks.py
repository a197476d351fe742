"""Two processes train a task as one does."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import TIMEOUT_SECONDS, environment, torchrun
from runs import Run

SECTIONS: dict[str, Any] = {
    "optimizer": {"adam_epsilon": 1e-3},  # so that a gradient of 0 makes no step by its rounding
    "evaluation": {"batch_size": 5},  # the last batches do not divide by two
}


def test_two_processes_give_the_numbers_of_one(tasks: Any) -> None:
    expected, configs = {}, {}
    for name in ("classification", "entities"):
        if name == "entities":
            tasks.hold_sentences()
        expected[name] = tasks.finetune(f"{name}-one", **SECTIONS)
        configs[name] = tasks.config(f"{name}-two", **SECTIONS)
    launched = subprocess.run(
        torchrun(Path(__file__).with_name("finetuning.py"), *configs.values()),
        env=environment(ACCELERATE_USE_CPU="true"),
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    for name, one in expected.items():
        two = Run(tasks.folder / f"{name}-two")
        assert two.json("environment.json")["num_processes"] == 2
        for file in ("eval_results.json", "test_results.json"):
            results, of_one = two.json(file), one.json(file)
            assert results.pop("loss") == pytest.approx(of_one.pop("loss"), rel=1e-4)
            assert results == of_one
        for key, expected_weights in one.weights.items():
            torch.testing.assert_close(two.weights[key], expected_weights, rtol=1e-4, atol=1e-5)
        predictions = [(run.path / "test_predictions.jsonl").read_text() for run in (one, two)]
        assert [len(lines.splitlines()) for lines in predictions] == [30, 30]
