"""The command itself: `mlmtune train` in each precision, stopped and resumed, twice to the end.

The runs of all precisions go side by side, because only their results matter. Those of one
precision end with the same bits if the device's kernels are deterministic.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interleaved import run_apart
from mlmtune.config_loading import shipped_configs
from options import MODELS, PRECISIONS, CommandLine, main, workspace
from report import stage, table, write_json
from startup import end_with_parent

RUNS = ("uninterrupted", "again", "resumed")
STOPPED = 143
"""The exit code of a run that SIGTERM has stopped after saving its state."""


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument("--model", choices=MODELS, default="minilm", help="default %(default)s")
    arguments.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, metavar="NAME",
        help="default bf16 and fp16 on a GPU, else fp32",
    )  # fmt: skip
    arguments.add_number("--batch-size", 16, "sequences in a step")
    arguments.add_number("--length", 128, "tokens in a sequence")
    arguments.add_number("--steps", 40, "optimizer steps of a run")
    return arguments


@dataclass(frozen=True)
class Run:
    """A run of `mlmtune train`.

    Attributes:
        arguments: The arguments of `mlmtune`.
        folder: run.output_dir.
        stop_after: The step after which it is stopped by a signal and resumed; None for never.
    """

    arguments: tuple[str, ...]
    folder: Path
    stop_after: int | None

    def result(self) -> dict[str, Any]:
        """Go to the end, and return what the run has recorded.

        Raises:
            RuntimeError: A process ended otherwise than it should; the message has its output.
        """
        started = time.perf_counter()
        if self.stop_after is not None:
            self._process(STOPPED, self.stop_after)
            self._process(0, None, "--resume", "auto")
        else:
            self._process(0, None)
        results = json.loads((self.folder / "all_results.json").read_text(encoding="utf-8"))
        weights = (self.folder / "model" / "model.safetensors").read_bytes()
        stage(self.folder.name)
        return {
            "seconds": time.perf_counter() - started,
            "weights": hashlib.sha256(weights).hexdigest(),
            "results": results,
        }

    def _process(self, exit_code: int, stop_after: int | None, *more: str) -> None:
        command = [sys.executable, "-m", "mlmtune", *self.arguments, *more]
        lines = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=end_with_parent,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if stop_after is not None and line.startswith(f"step {stop_after}/"):
                    process.send_signal(signal.SIGTERM)
        if process.returncode != exit_code:
            raise RuntimeError(
                f"exit code {process.returncode} instead of {exit_code}: {' '.join(command)}\n"
                + "".join(lines[-20:])
            )


def runs_of(
    precision: str, folder: Path, model: Path, batch_size: int, length: int, num_steps: int
) -> dict[str, Run]:
    """Return the runs of a precision by name; they differ in their folder and in how they end."""
    settings = {
        "model.name_or_path": model,
        "model.dropout": "null",  # the model's own, because dropout must be resumed, too
        "training.precision": precision,
        "training.global_batch_size": batch_size,
        "chunking.chunk_length": length,
        "training.max_steps": num_steps,
        "training.log_every": 1,
        "evaluation.every": num_steps,
        "evaluation.max_chunks": 64,
        "evaluation.mask_draws": 1,
        "optimizer.learning_rate": 1e-4,
    }
    config = str(shipped_configs()["quickstart"])
    runs = {}
    for name in RUNS:
        output = folder / f"{precision}-{name}"
        arguments = [f"{key}={value}" for key, value in settings.items()]
        runs[name] = Run(
            ("train", "--config", config, "--no-report", f"run.output_dir={output}", *arguments),
            output,
            num_steps // 2 if name == "resumed" else None,
        )
    return runs


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    precisions = options.precisions or (["bf16", "fp16"] if machine["gpus"] else ["fp32"])
    with workspace() as folder:
        os.environ["MLMTUNE_CACHE"] = str(folder / "cache")
        model = run_apart("models:prepare", options.model, folder)
        stage("model")
        sizes = model, options.batch_size, options.length, options.steps
        runs = {
            (precision, name): run
            for precision in precisions
            for name, run in runs_of(precision, folder, *sizes).items()
        }
        with ThreadPoolExecutor(len(runs)) as pool:
            futures = {key: pool.submit(run.result) for key, run in runs.items()}
        records = {key: future.result() for key, future in futures.items()}
    rows, measured = [], {}
    for precision in precisions:
        first = records[precision, RUNS[0]]
        for name in RUNS:
            record = records[precision, name]
            same = record["weights"] == first["weights"]
            results = record["results"]
            measured[f"{precision}, {name}"] = {**record, "same_weights": same}
            rows.append(
                [
                    precision,
                    name,
                    f"{record['seconds']:.0f}",
                    f"{results['eval_loss']:.6f}",
                    f"{results.get('num_skipped_steps', 0)}",
                    "" if name == RUNS[0] else "same" if same else "other",
                ]
            )
    print(
        f"{options.model}, {options.steps} steps of {options.batch_size} x {options.length}, "
        f"{machine['device']}"
    )
    print(table(["precision", "run", "s", "validation loss", "skipped steps", "bits"], rows))
    write_json(
        options.json, benchmark="command", model=options.model, runs=measured, machine=machine
    )


if __name__ == "__main__":
    main(benchmark)
