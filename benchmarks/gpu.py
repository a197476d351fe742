"""A GPU in nine minutes: training of several shapes, the command itself, and evaluation.

Each part is one of the other benchmarks, in a process and with a limit of its own. A part that
fails or runs out of time is reported, and the next one begins; the most valuable come first.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from options import PRECISIONS, CommandLine, main
from report import megabytes, read_json, table, write_json
from startup import end_with_parent

PUBLISHED = (
    "published: BERT-base of transformers about 110,000 tokens/s on an A100; Ettin 150M (the shape "
    "of ModernBERT-base) 296,000 on an H100"
)
AIMS = "aims: 3 x the peer, 2 x the compiled peer, 50 % MFU"

MINUTES = 8.7
"""The time for all parts; a GPU may be lent for nine minutes. With more, their limits grow."""

OUTPUT_LINES = 40
"""The lines of a part's output that are kept."""


@dataclass(frozen=True)
class Part:
    """A benchmark with its arguments.

    Attributes:
        script: The name of the benchmark.
        seconds: The time after which it is ended, with MINUTES for all.
        arguments: The options of the script, without `--json`.
    """

    script: str
    seconds: int
    arguments: Mapping[str, str | int | None]

    def tiny(self) -> "Part":
        """Return the same part with a tiny model and as little work as possible."""
        kind = "tiny-modernbert" if self.arguments.get("--model") == "modernbert" else "tiny-bert"
        least: dict[str, str | int] = {
            "--model": kind, "--batch-size": 4, "--length": 64, "--chunks": 8,
            "--steps": 1, "--rounds": 1, "--warmup": 1, "--tokens": 8192, "--heads": 1,
        }  # fmt: skip
        if self.script == "command":
            least["--steps"] = 4
        changed = {name: least.get(name, value) for name, value in self.arguments.items()}
        return replace(self, arguments=changed)

    def limit(self, minutes: float, seconds_left: float) -> float:
        """Return the seconds after which it is ended, of those that are left of the minutes."""
        return min(self.seconds * max(minutes / MINUTES, 1.0), seconds_left)

    def command(self, json_file: Path) -> list[str]:
        script = Path(__file__).with_name(f"{self.script}.py")
        options = [
            str(part) for item in self.arguments.items() for part in item if part is not None
        ]
        return [sys.executable, str(script), "--json", str(json_file), *options]


def _training(seconds: int, model: str, batch_size: int, length: int, steps: int) -> Part:
    return Part(
        "training", seconds,
        {"--model": model, "--batch-size": batch_size, "--length": length, "--steps": steps,
         "--warmup": 8, "--rounds": 3, "--compile": None},
    )  # fmt: skip


PARTS = {
    "bert-base-128": _training(140, "bert-base", 64, 128, steps=30),
    "command": Part(
        "command",
        90,
        # Small, because six runs at once write their checkpoints.
        {"--model": "small", "--batch-size": 32, "--length": 512, "--steps": 20},
    ),
    "attention": Part("attention", 60, {"--tokens": 16_384, "--heads": 12, "--rounds": 12}),
    "bert-base-512": _training(120, "bert-base", 32, 512, steps=15),
    "evaluation": Part(
        "evaluation", 60, {"--model": "bert-base", "--batch-size": 64, "--chunks": 2048}
    ),
    "modernbert-1024": _training(120, "modernbert", 16, 1024, steps=10),
    "bert-large-512": _training(150, "bert-large", 32, 512, steps=8),
    "modernbert-8192": _training(120, "modernbert", 2, 8192, steps=8),
}
"""The parts by name, in the order in which they run."""

WITH_PRECISION = ("training", "evaluation", "attention")
"""The scripts with one precision; `command` runs several."""


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument(
        "--results", type=Path, default=Path("gpu-results"), metavar="DIR",
        help="folder for a JSON file of each part; default %(default)s",
    )  # fmt: skip
    arguments.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME",
        help=f"which, in this order: {', '.join(PARTS)}; default all",
    )  # fmt: skip
    arguments.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help="time for all parts; beyond the default, the limit of each grows with it; default "
        "%(default)s",
    )
    arguments.add_argument(
        "--precision", choices=PRECISIONS, default="bf16", help="default %(default)s"
    )
    arguments.add_argument(
        "--tiny", action="store_true",
        help="tiny models and few steps: shows on any machine that every part runs",
    )  # fmt: skip
    return arguments


def run_part(part: Part, seconds: float) -> dict[str, Any]:
    """Run a part, and return how it ended, the end of its output and its measurements."""
    if seconds <= 0:
        return {"ending": "not begun, out of time", "seconds": 0.0, "output": [], "measured": None}
    started = time.monotonic()
    # One folder for all that the part writes: if it is killed, it cannot delete that itself.
    with tempfile.TemporaryDirectory(prefix="mlmtune-gpu-", ignore_cleanup_errors=True) as folder:
        json_file, log = Path(folder) / "part.json", Path(folder) / "output.txt"
        with (
            log.open("w") as output,
            subprocess.Popen(
                part.command(json_file),
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": folder, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # so that all of its processes can be ended
                preexec_fn=end_with_parent,
            ) as process,
        ):
            try:
                code = process.wait(seconds)
                ending = "done" if code == 0 else f"exit code {code}"
            except subprocess.TimeoutExpired:
                ending = f"stopped after {seconds:.0f} s"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        measured = read_json(json_file) if json_file.exists() else None
    return {
        "ending": ending,
        "seconds": time.monotonic() - started,
        "arguments": " ".join(part.command(Path("FILE"))[2:]),
        "output": lines[-OUTPUT_LINES:],
        "measured": measured,
    }


def rows_of(name: str, measured: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of a part of which rates were measured, one for each side."""
    rates = {side: one["rate"] for side, one in measured["sides"].items()}
    return [
        [
            name,
            side,
            f"{rate:,.0f}",
            f"{rate / rates['peer']:.2f}",
            f"{rate / rates['peer compiled']:.2f}" if "peer compiled" in rates else "",
            f"{measured['sides'][side]['mfu']:.1%}" if "mfu" in measured["sides"][side] else "",
            megabytes(measured["facts"][side]["peak_memory_bytes"]),
        ]
        for side, rate in rates.items()
    ]


def show(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table of all rates, and how each part ended."""
    rows: list[Sequence[str]] = []
    for name, record in records.items():
        if record["measured"] is not None and "sides" in record["measured"]:
            rows += rows_of(name, record["measured"])
    header = ["part", "side", "tokens/s", "x peer", "x peer compiled", "MFU", "peak memory"]
    print("\n" + table(header, rows))
    print(f"{PUBLISHED}\n{AIMS}")
    for name, record in records.items():
        print(f"{name}: {record['ending']} ({record['seconds']:.0f} s)")


def benchmark() -> None:
    options = command_line().parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    end = started + 60 * options.minutes
    records: dict[str, dict[str, Any]] = {}
    for name in options.parts:
        part = PARTS[name].tiny() if options.tiny else PARTS[name]
        if part.script in WITH_PRECISION:
            part = replace(part, arguments={**part.arguments, "--precision": options.precision})
        seconds = part.limit(options.minutes, end - time.monotonic())
        print(f"== {name}, after {time.monotonic() - started:.0f} s", flush=True)
        records[name] = run_part(part, seconds)
        write_json(
            options.results / f"{name}.json", part=name, **records[name], benchmark=part.script
        )
        print("\n".join(records[name]["output"]), flush=True)
        print(f"-- {records[name]['ending']}", flush=True)
    show(records)
    write_json(options.json, benchmark="gpu", parts=records)
    if any(record["ending"] != "done" for record in records.values()):
        sys.exit("some parts did not end; see above")


if __name__ == "__main__":
    main(benchmark)
