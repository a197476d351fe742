"""The commands: what they print, and the one line and exit code of each thing that goes wrong."""

import csv
import gzip
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlmtune import __version__, cli
from mlmtune.config_loading import as_override, load_config, shipped_configs
from mlmtune.errors import StoppedAtOnce
from mlmtune.shell import own_command
from mlmtune.training.interrupts import STOP_SIGNALS


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Command = Callable[..., Result]

COMMANDS = (
    "train",
    "finetune",
    "probe",
    "sweep",
    "eval",
    "report",
    "merge",
    "push",
    "fill",
    "check",
    "corpus",
    "prepare",
    "init",
)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs the command line in this process."""
    handlers = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # not as nohup leaves it

    def run(*arguments: Any) -> Result:
        monkeypatch.setattr(sys, "argv", ["mlmtune", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return Result(int(caught.value.code or 0), out, err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def assert_fails(result: Result, code: int, *parts: str) -> None:
    """One line that says what, where and how to fix it."""
    assert result.code == code, result
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("mlmtune: ")
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in result.err


# -------------------------------------------------------------------------- help and version


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(command: Command, name: str) -> None:
    result = command(name, "--help")
    assert result.code == 0
    assert f"Usage: mlmtune {name}" in result.out
    assert result.out == command(name, "-h").out


def test_help_lists_the_commands_and_exit_codes(command: Command) -> None:
    shown = command("--help").out
    for name in COMMANDS:
        assert f"\n  {name} " in shown
    shown = " ".join(shown.split())
    for code in ("2 config", "3 data", "4 checkpoint", "5 diverged", "6 memory", "7 hub", "130"):
        assert code in shown


@pytest.mark.parametrize(
    "arguments",
    [("probe", "--model", "a", "--config", "x"), ("sweep", "--config", "x", "run.seed=[1, 2]")],
)
def test_what_runs_in_one_process_refuses_a_launcher(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_fails(command(*arguments), 2, "in one process", "without a launcher")


SHORT = ("training.max_steps=3", "training.precision=fp32")


def test_a_first_try_needs_no_config_and_is_repeated_by_the_one_it_writes(
    command: Command, model_dir: Path, corpus_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    first = ("train", "--model", model_dir, corpus_dir, *SHORT, "--no-report")
    tried = command(*first)
    assert tried.code == 0, tried
    run = tmp_path / "runs" / corpus_dir.name
    written = (run / "config.yaml").read_text(encoding="utf-8")
    assert "  # share of the tokens that are predicted" in written
    assert "settings for 40 documents" in tried.out
    assert written in tried.out
    weights = (run / "model" / "model.safetensors").read_bytes()
    assert command("train", "--config", run / "config.yaml", "--overwrite", "--no-report").code == 0
    assert (run / "model" / "model.safetensors").read_bytes() == weights
    # The same command finds its run again, and says how to train on.
    assert_fails(command(*first), 2, "--resume auto", "--overwrite")
    resumed = command(*first, "--resume", "auto")
    assert resumed.code == 0
    assert f"--config runs/{corpus_dir.name}/config.yaml" in resumed.out


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("train", "--dry-run"), "masking.strategy"),
        (("check",), "masking.strategy"),
        (("corpus",), "40 files found"),
        (("prepare",), "the tokenized corpus is in"),
    ],
)
def test_commands_that_look_at_text_need_no_config(
    command: Command, model_dir: Path, corpus_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], shown: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = command(*arguments, "--model", model_dir, corpus_dir, *SHORT)
    assert result.code == 0, result
    assert shown in result.out, result.out[-500:]
    assert "settings for 40 documents" in result.out + result.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("check", "my run.yaml"), "did you mean --config 'my run.yaml'?"),
        (("train", "--training.epochs=3", "--config", "x"), "without dashes: training.epochs=3"),
        (("train", "--training.epochs", "3", "--config", "x"), "without dashes: training.epochs=3"),
        (("train", "--cnfig", "x"), "mlmtune --help lists the commands"),
        (("train", "-c", "x", "--model", "a b"), "write 'model.name_or_path=a b'"),
        (("check", "--model", "a"), "name the text, such as --model"),
        (("corpus", "docs"), "name the model to start from, such as --model"),
        (("train", "training.epochs=1"), "give a config with --config FILE, or a model and text"),
    ],
)
def test_a_wrong_command_line_is_answered_with_the_right_one(
    command: Command, arguments: tuple[str, ...], advice: str
) -> None:
    assert_fails(command(*arguments), 2, advice)


def test_version(command: Command) -> None:
    assert command("--version") == Result(0, f"mlmtune {__version__}\n", "")
    assert command("-V") == command("--version")


def test_help_can_be_asked_for_as_a_command(command: Command) -> None:
    assert command("help") == command("--help")
    assert command("help", "train") == command("train", "--help")
    assert_fails(command("help", "nothing"), 2, "No such command 'nothing'")


def test_the_config_has_a_short_name(command: Command) -> None:
    assert command("train", "-c", "none.yaml") == command("train", "--config", "none.yaml")


def run_fresh(*commands: list[str]) -> tuple[list[int], set[str]]:
    """Exit codes of commands in one new process, and the large libraries that it then has."""
    code = textwrap.dedent(f"""
        import json, sys
        import mlmtune, mlmtune.config
        from mlmtune.cli import main
        codes = []
        for arguments in {commands!r}:
            sys.argv = ["mlmtune", *arguments]
            try:
                main()
            except SystemExit as error:
                codes.append(error.code or 0)
        heavy = {{"torch", "transformers", "accelerate", "datasets", "numpy"}}
        print(json.dumps([codes, [name for name in heavy if sys.modules.get(name)]]))
    """)
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    codes, loaded = json.loads(ran.stdout.splitlines()[-1])
    return codes, set(loaded)


def test_help_and_config_errors_do_not_wait_for_torch(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("run: {outputdir: x}\n", encoding="utf-8")
    codes, loaded = run_fresh(
        ["--help"], ["train", "--help"], ["init"], ["train", "--config", str(config)],
        ["check", "--config", "missing"],
    )  # fmt: skip
    assert codes == [0, 0, 0, 2, 2]
    assert not loaded


def test_what_is_not_there_is_said_before_torch_is_imported(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    good, no_model = ["--config", str(config_file())], ["--model", "./missing"]
    no_text = [*good, "corpus.sources.0.path=./missing"]
    task = tmp_path / "task.yaml"
    task.write_text(
        "run: {output_dir: x}\nmodel: {name_or_path: ./missing}\n"
        "data: {format: csv, train: missing, text_field: text, label_field: label}\n",
        encoding="utf-8",
    )
    codes, loaded = run_fresh(
        ["train", *good, "model.name_or_path=./missing"], ["train", *no_text],
        ["check", *no_text], ["corpus", *no_text], ["prepare", *no_text],
        ["eval", *good, *no_model], ["fill", *no_model, "a [MASK]"],
        ["finetune", "--config", str(task)], ["probe", "--config", str(task), *no_model],
        ["sweep", *no_text, "training.max_steps=1", "run.seed=[1, 2]"],
        ["report", "./missing"], ["merge", "./missing"], ["push", "./missing", "--repo", "x"],
    )  # fmt: skip
    assert codes == [2, 3, 3, 3, 3, 2, 2, 2, 2, 3, 2, 2, 2]
    assert not loaded & {"torch", "transformers", "accelerate", "datasets"}


# ----------------------------------------------------------------- what goes wrong: exit code 2


def test_an_unknown_key_names_its_place_and_the_nearest(
    command: Command, config_file: Callable[..., Path]
) -> None:
    path = config_file(optimizer={"learningrate": 1})
    line = path.read_text(encoding="utf-8").splitlines().index("  learningrate: 1") + 1
    assert_fails(command("train", "--config", path), 2, f"{path}:{line}", "learning_rate")


def test_an_override_is_checked_like_the_file(
    command: Command, config_file: Callable[..., Path]
) -> None:
    path = config_file()
    assert_fails(command("train", "--config", path, "optimizer.lr=1"), 2, "optimizer.lr")
    assert_fails(
        command("check", "--config", path, "model.trust_remote_code=true"), 2, "trust_remote_code"
    )


def test_a_missing_config(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "nothing.yaml"
    for name in ("train", "check"):
        assert_fails(command(name, "--config", path), 2, f"{path}: no such file")


@pytest.mark.parametrize(
    "arguments",
    [["trian"], ["train", "--confg", "x"], ["fill", "--model"], ["eval", "--json"],
     ["fill", "--model", "x", "--top-k", "0", "[MASK]"]],
)  # fmt: skip
def test_bad_usage(command: Command, arguments: list[str]) -> None:
    assert_fails(command(*arguments), 2, "mlmtune --help")


def test_resume_and_overwrite_contradict(
    command: Command, config_file: Callable[..., Path]
) -> None:
    result = command("train", "--config", config_file(), "--resume", "x", "--overwrite")
    assert_fails(result, 2, "--resume", "--overwrite")


@pytest.mark.parametrize(
    ("sections", "code", "parts"),
    [
        ({"chunking": {"chunk_length": 128}}, 2, ["128", "64", "chunking.chunk_length"]),
        ({"training": {"precision": "fp16"}}, 2, ["fp16 needs a GPU", "bf16", "fp32"]),
        ({"model": {"name_or_path": "./nowhere"}}, 2, ["there is no folder ./nowhere"]),
        ({"model": {"name_or_path": "no-one/no-model"}}, 7, ["no-one/no-model", "HF_HUB_OFFLINE"]),
        ({"corpus": {"min_characters": 100_000}}, 3, ["40"]),
    ],
)
def test_a_setting_that_cannot_work(
    command: Command,
    config_file: Callable[..., Path],
    tmp_path: Path,
    sections: dict[str, Any],
    code: int,
    parts: list[str],
) -> None:
    path = config_file(**sections)
    assert_fails(command("train", "--config", path), code, *parts)
    assert not (tmp_path / "run" / "model").exists()


def test_a_used_output_directory(command: Command, config_file: Callable[..., Path]) -> None:
    path = config_file(training={"max_steps": 1})
    assert command("train", "--config", path).code == 0
    assert_fails(command("train", "--config", path), 2, "--resume auto", "--overwrite")
    assert command("train", "--config", path, "--resume", "auto").code == 0
    assert command("train", "--config", path, "--overwrite").code == 0


# ----------------------------------------------------------------- what goes wrong: exit code 3


def source(path: Path, format_: str = "text") -> dict[str, Any]:
    return {"sources": [{"format": format_, "path": str(path)}]}


def test_no_documents(command: Command, config_file: Callable[..., Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = command("train", "--config", config_file(corpus=source(empty)))
    assert_fails(result, 3, str(empty))


def test_a_missing_corpus(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    for name in ("train", "check"):
        result = command(name, "--config", config_file(corpus=source(missing)))
        assert_fails(result, 3, str(missing))


def test_a_broken_line_is_named(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "one"}\n{"text": "two"\n', encoding="utf-8")
    result = command("train", "--config", config_file(corpus=source(data, "json")))
    assert_fails(result, 3, f"{data}:2")


def test_a_truncated_archive_is_named(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    data = tmp_path / "data.txt.gz"
    data.write_bytes(gzip.compress(b"some words " * 500)[:-20])
    result = command("train", "--config", config_file(corpus=source(data)))
    assert_fails(result, 3, str(data))


# ------------------------------------------------------------------ other ways of going wrong


@pytest.mark.parametrize("arguments", [["--debug", "check"], ["check", "--debug"]])
def test_debug_shows_where(
    monkeypatch: pytest.MonkeyPatch, command: Command, arguments: list[str]
) -> None:
    assert_fails(command("check", "--config", "missing.yaml"), 2)
    monkeypatch.setenv("MY_TOKEN", "missing-canary-0451")
    result = command(*arguments, "--config", "missing-canary-0451.yaml")
    assert result.code == 2
    assert "Traceback (most recent call last)" in result.err
    assert "in _read_text" in result.err
    *_, last = result.err.splitlines()
    assert last.startswith("mlmtune: [redacted].yaml: no such file")
    assert "canary" not in result.err


def test_what_one_of_several_processes_met_is_said(
    command: Command, monkeypatch: pytest.MonkeyPatch, config_file: Callable[..., Path]
) -> None:
    from mlmtune.training import launch

    ending = launch.Ending(3, "no text", rank=1)
    monkeypatch.setattr(launch, "launch", lambda *_, **__: ending)
    result = command("train", "--nproc", "2", "--config", config_file())
    assert (result.code, result.err) == (3, "mlmtune (process 1): no text\n")


@pytest.mark.parametrize(
    ("error", "code", "parts"),
    [
        (RuntimeError("odd"), 1, ["unexpected RuntimeError: odd", "--debug"]),
        (MemoryError(), 6, ["out of memory", "training.micro_batch_size"]),
        (StoppedAtOnce(signal.SIGINT), 130, ["stopped by SIGINT"]),
    ],
)
def test_what_nobody_foresaw_is_one_line_too(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    config_file: Callable[..., Path],
    error: BaseException,
    code: int,
    parts: list[str],
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("mlmtune.commands.train.build_masked_lm", fail)
    assert_fails(command("train", "--config", config_file()), code, *parts)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
)
@pytest.mark.parametrize(
    "place",
    ["mlmtune.modeling.loading.AutoModelForMaskedLM.from_pretrained",
     "mlmtune.modeling.tokenizer.AutoTokenizer.from_pretrained",
     "mlmtune.training.setup.open_splits"],
)  # fmt: skip
def test_a_signal_before_training_stops_at_once(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    config_file: Callable[..., Path],
    tmp_path: Path,
    place: str,
    number: signal.Signals,
    code: int,
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), number)
        pytest.fail("went on")

    with monkeypatch.context() as patch:
        patch.setattr(place, stop)
        result = command("train", "--config", config_file())
    assert_fails(result, code, f"stopped by {number.name}")
    status = json.loads((tmp_path / "run" / "status.json").read_text(encoding="utf-8"))
    assert (status["state"], status["exit_code"]) == ("interrupted", code)


def test_a_reader_that_leaves_makes_no_noise() -> None:
    line = f"{sys.executable} -m mlmtune init | true; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert (ran.stderr, ran.stdout) == ("", "0\n")


@pytest.mark.parametrize("name", ["report", "push", "output_dir", "resume"])
def test_the_home_of_nobody(command: Command, config_file: Callable[..., Path], name: str) -> None:
    place = "~no_such_user_here/run"
    train = ("train", "--config", config_file())
    arguments: dict[str, tuple[Any, ...]] = {
        "report": ("report", place),
        "push": ("push", place, "--repo", "name"),
        "output_dir": (*train, f"run.output_dir={place}"),
        "resume": (*train, "--resume", place),
    }
    assert_fails(command(*arguments[name]), 2, f"{place}: the home folder of this user")


def test_a_working_directory_that_is_gone(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert_fails(command("report", "/run"), 2, "the working directory does not exist any more")
    assert command("--version").code == 0


# ----------------------------------------------------------------------------- fill and eval


SENTENCES = ["the [MASK] cluster", "create a [MASK] [MASK]"]


def test_fill_prints_candidates(command: Command, model_dir: Path) -> None:
    result = command("fill", "--model", model_dir, "--top-k", 3, *SENTENCES)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == SENTENCES[0]
    assert len(lines) == 1 + 3 + 1 + 1 + 2 * (1 + 3)
    assert all("%" in line for line in lines[1:4])
    assert [line.strip() for line in lines if "mask " in line] == ["mask 1 of 2", "mask 2 of 2"]


def test_fill_as_json(command: Command, model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "sentences.txt"
    file.write_text("\n\n".join(SENTENCES) + "\n", encoding="utf-8")
    result = command("fill", "--model", model_dir, "--json", "--text-file", file)
    records = json.loads(result.out)
    assert [record["text"] for record in records] == SENTENCES
    answers = [answer for record in records for answer in record["models"]]
    assert [answer["name"] for answer in answers] == ["tiny-bert", "tiny-bert"]
    assert [len(answer["masks"]) for answer in answers] == [1, 2]
    for mask in (mask for answer in answers for mask in answer["masks"]):
        candidates = mask["predictions"]
        assert len(candidates) == 5
        scores = [candidate["score"] for candidate in candidates]
        assert scores == sorted(scores, reverse=True)
        assert candidates[0].keys() == {"score", "token", "token_str", "sequence"}
        assert mask["targets"] == []
    given = command("fill", "--model", model_dir, "--json", *SENTENCES)
    assert json.loads(given.out) == records


def test_fill_sets_models_side_by_side(
    command: Command, model_dir: Path, pair_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = command(
        "fill", "--model", model_dir, "--model", pair_model_dir, "--top-k", 2,
        "--targets", "node, k8s,node", SENTENCES[0],
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    text, names, *rows = result.out.splitlines()
    assert text == SENTENCES[0]
    assert names.split() == ["tiny-bert", "tiny-bert-of-pairs"]
    assert [row.split()[0] for row in rows] == ["1", "2", "node", "k8s"]
    assert all(row.count("%") == 2 for row in rows[:3])
    assert rows[2].count("rank") == 2
    assert rows[3].count("not one token: k ##8 ##s") == 2


class StandardInput(io.TextIOWrapper):
    """What is piped into the command."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], SENTENCES), (["-"], SENTENCES), (["--text-file", "-"], SENTENCES),
     (["a [MASK]", "-"], ["a [MASK]", *SENTENCES])],
)  # fmt: skip
def test_fill_reads_standard_input(
    command: Command,
    model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: list[str],
) -> None:
    piped = "\ufeff" + "\r\n  \n".join(SENTENCES)
    monkeypatch.setattr(sys, "stdin", StandardInput(piped.encode()))
    result = command("fill", "--model", model_dir, "--json", *arguments)
    assert [record["text"] for record in json.loads(result.out)] == expected


def test_fill_leaves_standard_input_alone_where_sentences_are_given(
    command: Command, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = StandardInput(b"the [MASK]")
    monkeypatch.setattr(sys, "stdin", piped)
    assert command("fill", "--model", model_dir, SENTENCES[0]).out.startswith(SENTENCES[0])
    assert piped.buffer.read() == b"the [MASK]"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [([], "nothing to fill"), (["no mask here"], "there is no [MASK] in 'no mask here'"),
     (["--text-file", "missing.txt"], "missing.txt"), (["[MASK] " + "the " * 80], "64"),
     (["[MASK]", "--targets", " ,"], "--targets"), (["\udcff [MASK]"], "UTF-8"),
     (["[MASK]", "--model", "./nowhere"], "./nowhere")],
)  # fmt: skip
def test_what_cannot_be_filled(
    command: Command,
    model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    part: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", StandardInput(b"\n \n"))
    assert_fails(command("fill", "--model", model_dir, *arguments), 2, part)


def test_standard_input_that_is_not_utf8_or_not_there(
    command: Command, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", StandardInput(b"\xff [MASK]\n"))
    assert_fails(command("fill", "--model", model_dir), 2, "standard input", "utf-8")
    monkeypatch.setattr(sys, "stdin", None)
    assert_fails(command("fill", "--model", model_dir), 2, "nothing to fill")


def test_eval(command: Command, model_dir: Path, config_file: Callable[..., Path]) -> None:
    path = config_file(model={"name_or_path": "./another"})
    measured = command("eval", "--model", model_dir, "--config", path, "--json")
    assert measured.code == 0
    [values] = json.loads(measured.out)
    assert values.keys() >= {"loss", "perplexity", "perplexity_interval", "num_masked_tokens"}
    shown = command("eval", "--model", model_dir, "--config", path)
    assert f"{values['perplexity']:.2f}" in shown.out
    assert str(values["num_masked_tokens"]) in shown.out
    fewer = command("eval", "--model", model_dir, "--config", path, "--json",
                    "evaluation.max_chunks=3")  # fmt: skip
    assert json.loads(fewer.out)[0]["num_chunks"] == 3


def test_eval_lets_models_find_the_same_pages(
    command: Command,
    model_dir: Path,
    pair_model_dir: Path,
    config_file: Callable[..., Path],
    pages: dict[str, Any],
) -> None:
    path = config_file(corpus=pages)
    asked = ("eval", "--model", model_dir, "--model", pair_model_dir, "--config", path)
    first, second = (r["retrieval"] for r in json.loads(command(*asked, "--json").out))
    assert first["change"] is None
    difference = second["measures"]["mrr"]["value"] - first["measures"]["mrr"]["value"]
    assert second["change"]["mrr"]["value"] == pytest.approx(difference)
    shown = command(*asked).out
    assert "found first" in shown.splitlines()[0]
    assert "(BM25: " in shown.splitlines()[-1]
    by_chunk = command(*asked, "corpus.split_by=chunk")
    assert "retrieval cannot be measured with corpus.split_by: chunk" in by_chunk.out


def test_eval_asks_models_with_other_tokenizers_for_the_same_words(
    command: Command,
    model_dir: Path,
    byte_model_dir: Path,
    config_file: Callable[..., Path],
    corpus_dir: Path,
) -> None:
    general = {"format": "text", "path": str(corpus_dir), "max_documents": 5}
    path = config_file(evaluation={"general": [general]})
    asked = ("eval", "--model", model_dir, "--model", byte_model_dir, "--config", path)
    records = json.loads(command(*asked, "--json").out)
    assert len(records) == 4
    for first, second in (records[::2], records[1::2]):
        assert first["words"]["num_documents"] == second["words"]["num_documents"]
        [[one], [other]] = [r["words"]["samples"][0]["measurements"] for r in (first, second)]
        assert (one["model"], other["model"]) == ("tiny-bert", "tiny-bytes")
        assert one["change"] is None
        assert other["change"]["loss"]["value"] == pytest.approx(
            other["losses"]["loss"]["value"] - one["losses"]["loss"]["value"]
        )
    shown = command(*asked).out
    assert "nats per word" in shown.splitlines()[0]
    assert "the same whole words for every model" in shown
    by_chunk = command(*asked, "corpus.split_by=chunk").out
    assert "words of the domain text cannot be compared" in by_chunk
    same = command("eval", "--model", model_dir, "--config", path, "--json").out
    assert [record["words"] for record in json.loads(same)] == [None, None]


def test_train_ends_with_a_report(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = config_file(training={"max_steps": 1})
    result = command("train", "--config", path)
    assert result.code == 0
    assert f"the report is in {tmp_path / 'run' / 'report.html'}" in result.out
    assert (tmp_path / "run" / "report.json").is_file()
    without = command("train", "--config", path, "--overwrite", "--no-report", "--quiet")
    assert without.code == 0
    last = without.out.splitlines()[-1]
    assert re.match(r"run: (improved|mixed|no clear change|worse)\. .*: perplexity .* before", last)
    assert not (tmp_path / "run" / "report.html").exists()
    again = command("report", tmp_path / "run", "--quiet")
    assert again.code == 0
    assert re.match(r"run: (improved|mixed|no clear change|worse)\.", again.out)
    assert_fails(command("report", tmp_path), 2, "no run in it")
    assert_fails(command("report", "evaluation.max_chunks=3"), 2, "no run to report on")


def test_eval_of_several_models_on_several_texts(
    command: Command,
    model_dir: Path,
    pair_model_dir: Path,
    corpus_dir: Path,
    config_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    one, two = config_file("one.yaml"), config_file("two.yaml")
    dump = tmp_path / "dump.csv"
    asked = ("eval", "--model", model_dir, "--model", pair_model_dir)
    result = command(*asked, "--config", one, "--json", "--dump", dump)
    records = json.loads(result.out)
    assert [(r["text"], r["model"]) for r in records] == [
        ("one", "tiny-bert"), ("one", "tiny-bert-of-pairs"),
    ]  # fmt: skip
    assert records[0]["perplexity_per_byte"] < records[0]["perplexity"]
    with dump.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * records[0]["num_chunks"]
    assert all("[MASK]" not in row["original"] for row in rows)
    assert sum(row["masked"].count("[MASK]") for row in rows) > len(rows)
    assert all("[MASK]" not in row["prediction"] or "[MASK]" in row["masked"] for row in rows)

    other = config_file("other.yaml", training={"precision": "bf16"})
    assert_fails(command(*asked, "--config", one, "--config", other), 2, "training.precision=")

    domain = f"corpus.sources=[{{format: text, path: {corpus_dir}, max_documents: 10}}]"
    measured = f"evaluation.general=[{{format: text, path: {corpus_dir}, max_documents: 5}}]"
    shown = command(*asked, "--config", one, "--config", two, domain, measured)
    *lines, _, why_not = shown.out.splitlines()  # a note on each text
    assert [line.split("  ")[0] for line in lines] == [
        "text", *["one", "one, general"] * 2, *["two", "two, general"] * 2,
    ]  # fmt: skip
    assert why_not.startswith("two: retrieval cannot be measured: it takes 20 validation documents")


# ----------------------------------------------------------------------------- init and check


def test_init_lists_what_there_is(command: Command) -> None:
    shown = command("init").out
    assert {"quickstart", "azure"} <= shipped_configs().keys()
    for name in shipped_configs():
        assert f"\n  {name} " in shown


def test_init_prints_or_writes_the_schema_of_a_kind_of_config(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    of_adaptation = json.loads(command("init", "--schema").out)
    assert "corpus" in of_adaptation["properties"]
    written = command("init", "task", "--schema", "--output", "task.schema.json")
    assert "# yaml-language-server: $schema=task.schema.json" in written.out
    of_task = json.loads(Path("task.schema.json").read_text(encoding="utf-8"))
    assert "data" in of_task["properties"]
    again = command("init", "--schema", "--output", "task.schema.json")
    assert_fails(again, 2, "task.schema.json exists already")


def test_init_writes_and_does_not_overwrite(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("init", "quickstart")
    assert result.code == 0
    assert own_command("train", "--config", "quickstart.yaml") in result.out
    written = Path("quickstart.yaml")
    assert written.read_bytes() == shipped_configs()["quickstart"].read_bytes()
    assert load_config(written)
    assert "mlmtune finetune --config task.yaml" in command("init", "task").out
    written.write_text("mine", encoding="utf-8")
    assert_fails(command("init", "quickstart"), 2, "quickstart.yaml exists already", "--output")
    assert written.read_text(encoding="utf-8") == "mine"
    assert command("init", "quickstart", "--output", "other.yaml").code == 0
    assert load_config("other.yaml")
    assert_fails(command("init", "quickstrat"), 2, "quickstrat", "quickstart")
    assert_fails(command("init", "azure", "--output", "no/such/folder.yaml"), 6, "no/such")


def test_check_shows_what_a_run_would_do(
    command: Command, config_file: Callable[..., Path], model_dir: Path, tmp_path: Path
) -> None:
    path = config_file()
    result = command("check", "--config", path)
    assert result.code == 0
    lines = result.out.splitlines()
    items = {line[:12].strip(): line[12:] for line in lines if line[:12].strip()}
    assert str(model_dir) in items["model"]
    assert "BertForMaskedLM" in items["model"]
    assert "M parameters" in items["model"]
    assert "context length 64" in items["model"]
    assert "cpu, fp32" in items["device"]
    assert "40 found, 40 kept" in items["documents"]
    for side in ("training", "validation"):
        assert "documents" in items[side]
        assert " tokens, " in items[side]
        assert " chunks" in items[side]
    assert items["steps"].startswith("6 steps of 8 sequences")
    assert "tokens per epoch" in items["masked"]
    assert "GB here" in items["memory"]
    head = next(n for n, line in enumerate(lines) if line.startswith("memory")) + 1
    assert lines[head].split() == ["GB", "in", "fp32", "1", "GPU", "2", "GPUs", "8", "GPUs"]
    assert lines[head + 1].split() == ["micro", "batch", "8", "4", "1"]
    assert "masking.mlm_probability=0.3" in items["try"]
    shown = next(n for n, line in enumerate(lines) if "first training sequences" in line)
    assert sum(line.endswith(".txt") for line in lines[:shown]) == 3  # samples, by their files
    assert lines[shown + 1].startswith("sequence ")
    assert lines[shown + 2] == "  [CLS]"
    assert lines[shown + 3].endswith(".txt")  # the first document of the chunk
    assert "[[" in lines[shown + 4]
    assert " -> " in lines[shown + 4]
    assert "tokens are predicted; of these" in result.out
    assert "tokens/s" not in result.out
    assert "unknown to" not in result.out
    assert not (tmp_path / "run").exists()  # nothing is written


GERMAN = "Die Einstellungen werden in der Datei geändert, und danach startet man den Dienst neu. "
ENGLISH = (
    "The settings are changed in the file of the configuration, and the service starts again. "
)


def test_check_shows_no_text_that_is_left_out_by_its_language(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.txt").write_text(f"{(GERMAN, ENGLISH)[number % 2] * 4}{number}\n")
    text = {"sources": [{"format": "text", "path": str(folder)}], "languages": ["en"]}
    settings = {"corpus": text, "tokenization": {"max_unknown_share": 1}}
    shown = command("check", "--config", config_file(**settings))
    assert shown.code == 0, shown
    assert shown.out.count("The settings") == 3 * 4
    assert "Einstellungen" not in shown.out


def test_check_shows_the_special_tokens_that_a_user_added(
    command: Command, config_file: Callable[..., Path], model_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    marked = AutoTokenizer.from_pretrained(model_dir)
    marked.add_special_tokens({"extra_special_tokens": ["[DRUG]", "[/DRUG]", "[GENE]"]})
    model = AutoModelForMaskedLM.from_pretrained(model_dir)
    model.resize_token_embeddings(len(marked))
    for part in (marked, model):
        part.save_pretrained(tmp_path / "model")
    for number in range(20):
        text = f"page {number} " + "use [DRUG]storage[/DRUG] now " * 20
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    path = config_file(
        model={"name_or_path": str(tmp_path / "model")},
        corpus={"sources": [{"format": "text", "path": str(tmp_path / "*.txt")}]},
    )
    result = command("check", "--config", path, "--chunks", "8")
    assert re.search(
        r"^added +tokens of the training text: \[DRUG\] (\d{3}), \[/DRUG\] \1; 1 of 3 never occur",
        result.out, re.MULTILINE,
    )  # fmt: skip
    shown = result.out.partition("first training sequences")[2]
    assert re.search(r"\[\[\[/?DRUG\] -> ", shown)  # it is predicted like any other token


def test_text_that_the_vocabulary_does_not_know_is_said(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    for number in range(20):
        text = f"page {number} " + "服 务 " * 20
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    path = config_file(corpus={"sources": [{"format": "text", "path": str(tmp_path / "*.txt")}]})
    assert "of the tokens are unknown to" in command("check", "--config", path).out


def test_check_shows_as_many_chunks_and_draws_as_asked(
    command: Command, config_file: Callable[..., Path]
) -> None:
    result = command("check", "--config", config_file(), "--chunks", "2", "--draws", "3")
    assert result.code == 0
    lines = result.out.splitlines()
    labels = [line for line in lines if line.startswith("sequence ")]
    assert [label.rpartition(" ")[2] for label in labels] == ["1", "2", "3"] * 2
    shown = "\n".join(lines[lines.index(labels[0]) : lines.index(labels[3])])
    texts = shown.split("sequence ")[1:]
    assert len({text.partition("\n")[2] for text in texts}) == 3  # three masks of one chunk
    assert "\033[" not in result.out  # colours are for terminals


def test_check_shows_the_configs_strategy_or_all_with_their_rates_and_words(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for number in range(20):
        (text / f"{number}.txt").write_text("the pools, nodes and keys" * 9, encoding="utf-8")
    path = config_file(
        masking={"strategy": "whole_word"},
        corpus={"sources": [{"format": "text", "path": str(text)}], "deduplicate": False},
    )
    alone, together = (command("check", "--config", path, *flags) for flags in ([], ["--masks"]))
    assert alone.out.count("masking.strategy:") == 1
    assert "masking.strategy: whole_word" in alone.out
    parts = together.out.split("masking.strategy: ")[1:]
    assert [part.split()[0] for part in parts] == ["token", "whole_word", "span"]
    for part in parts:
        assert re.search(r"in \d+ sequences 1\d\.\d% of [\d,]+ tokens are predicted", part)
        assert "masked words by their tokens" in part
    token, words, span = parts
    assert words.strip() == alone.out.split("masking.strategy: ")[1].strip()
    assert set(re.findall(r"(\d+)% of them whole", words + span)) == {"100"}
    assert set(re.findall(r"(\d+)% of them whole", token)) > {"100"}
    assert "spans by their words" in span
    assert "spans by their words" not in token + words


def test_check_shows_pairs(
    command: Command, config_file: Callable[..., Path], pair_sections: dict[str, Any]
) -> None:
    result = command("check", "--config", config_file(**pair_sections), "--chunks", "8")
    assert result.code == 0
    assert re.search(r"pairs +\d+ per epoch, of \d+ tokens on average; it leaves out", result.out)
    assert "-- B is from another document" in result.out
    assert "-- B follows A" in result.out
    assert "of the pairs do not belong together" in result.out


# ------------------------------------------------------------------------- corpus and prepare


def test_corpus_shows_what_comes_of_the_text(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    result = command("corpus", "--config", config_file())
    assert result.code == 0
    for part in (
        "40 files found, 40 read",
        "documents",
        "characters",
        "training",
        "tokens per word",
    ):
        assert part in result.out
    assert "reading and tokenizing" in result.err
    assert not (tmp_path / "run").exists()


def test_corpus_prints_what_a_run_writes(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = config_file()
    printed = json.loads(command("corpus", "--config", path, "--json").out)
    assert command("train", "--config", path, "training.max_steps=1").code == 0
    written = json.loads((tmp_path / "run" / "corpus.json").read_text(encoding="utf-8"))
    assert printed == written


def test_corpus_exports_the_cleaned_documents(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    result = command("corpus", "--config", config_file(), "--export", tmp_path / "out.jsonl")
    assert result.code == 0
    assert "wrote 40 documents" in result.err
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 40


@pytest.mark.parametrize(
    ("name", "code", "part"),
    [("out.doc", 2, ".jsonl or .parquet"), ("no/such/folder/out.jsonl", 6, "cannot be written")],
)
def test_an_export_that_cannot_be_is_said(
    command: Command, config_file: Callable[..., Path], tmp_path: Path, name: str, code: int,
    part: str,
) -> None:  # fmt: skip
    result = command("corpus", "--config", config_file(), "--export", tmp_path / name)
    assert result.code == code
    assert part in result.err.splitlines()[-1]


def test_a_prepared_store_is_opened_where_it_lies_without_the_text(
    command: Command, config_file: Callable[..., Path], corpus_dir: Path, model_dir: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    text = tmp_path / "text"
    shutil.copytree(corpus_dir, text / "domain")
    shutil.copytree(corpus_dir, text / "general", ignore=lambda _, names: sorted(names)[5:])
    path = config_file(
        corpus={"sources": [{"format": "text", "path": str(text / "domain")}]},
        tokenization={"store": str(tmp_path / "store"), "cache_dir": str(tmp_path / "cheap")},
        evaluation={"general": [{"format": "text", "path": str(text / "general")}]},
    )
    result = command("prepare", "--config", path)
    assert result.code == 0
    assert result.out.splitlines()[-1] == f"the tokenized corpus is in {tmp_path / 'store'}"
    expected = command("eval", "--config", path, "--model", model_dir, "--json")

    shutil.rmtree(text)
    shutil.rmtree(tmp_path / "cheap")
    result = command("eval", "--config", path, "--model", model_dir, "--json")
    assert result.code == 0
    assert "the text cannot be reached here" in result.err
    assert result.out == expected.out
    assert command("check", "--config", path).code == 0
    for arguments in (["prepare"], ["corpus", "--refresh"]):  # which are to look at the text
        assert_fails(command(*arguments, "--config", path), 3, "does not exist")
    export = command("corpus", "--config", path, "--export", tmp_path / "out.jsonl")
    assert export.code == 3
    assert "only the tokens of the text are here" in export.err.splitlines()[-1]


def test_a_store_is_never_written_over_something_else(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    path = config_file(tokenization={"store": str(folder)})
    (folder / "thesis.txt").write_text("years of work", encoding="utf-8")
    for name in ("prepare", "train"):
        assert_fails(command(name, "--config", path), 2, "is not a token store", "a new folder")
    assert (folder / "thesis.txt").exists()
    (folder / "thesis.txt").unlink()
    assert command("prepare", "--config", path).code == 0  # an empty folder will do


def test_a_store_that_other_settings_made_is_refused_and_prepare_replaces_it(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = config_file(tokenization={"store": str(tmp_path / "store")})
    assert command("prepare", "--config", path).code == 0
    assert_fails(
        command("check", "--config", path, "corpus.min_characters=5"),
        2, "was made with another corpus section", "mlmtune prepare",
    )  # fmt: skip
    assert command("prepare", "--config", path, "corpus.min_characters=5").code == 0
    assert command("check", "--config", path, "corpus.min_characters=5").code == 0


def test_a_changed_text_is_read_again_and_that_is_said(
    command: Command, config_file: Callable[..., Path], corpus_dir: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    shutil.copytree(corpus_dir, text)
    sources = [{"format": "text", "path": str(text)}]
    for name, settings in (("cached", {}), ("named", {"store": str(tmp_path / "store")})):
        path = config_file(f"{name}.yaml", corpus={"sources": sources}, tokenization=settings)
        assert "has changed" not in command("prepare", "--config", path).out
        (text / f"new for {name}.txt").write_text(f"a new {name} file", encoding="utf-8")
        result = command("check", "--config", path)
        assert "the text has changed since it was last read" in result.out
        assert "has changed" not in command("check", "--config", path).out


def test_check_measures(command: Command, config_file: Callable[..., Path], tmp_path: Path) -> None:
    result = command("check", "--config", config_file(), "--measure")
    assert result.code == 0
    speed = next(line for line in result.out.splitlines() if line.startswith("measured"))
    assert "tokens/s" in speed
    assert "s per step" in speed
    assert "peak memory" in speed
    assert any(line.startswith("finish") for line in result.out.splitlines())
    assert not (tmp_path / "run").exists()


def test_quiet_prints_the_result_alone(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    result = command("train", "--config", config_file(), "--quiet", "training.max_steps=1")
    assert result.code == 0
    assert result.err == ""
    lines = [line for line in result.out.splitlines() if line]
    assert lines[0].startswith("perplexity ")
    assert f"the model is in {tmp_path / 'run' / 'model'}" in lines
    assert lines[-1].startswith(f"the report is in {tmp_path / 'run' / 'report.html'}")


def test_a_finished_run_is_trained_on_with_the_command_that_it_prints(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "it's the run: 1"
    arguments = (
        "train", "--config", config_file(), f"run.output_dir={as_override(str(run))}",
        "training.max_steps=2", "evaluation.max_chunks=4", "--no-report",
    )  # fmt: skip
    assert command(*arguments).code == 0
    done = command(*arguments, "--resume", "auto")
    assert done.code == 0
    complete, printed = done.out.splitlines()
    assert "is already complete" in complete
    prefix = f"to train on from its model: {own_command()} "
    assert printed.startswith(prefix)

    again = command(*shlex.split(printed.removeprefix(prefix)), "--no-report")
    assert again.code == 0, again
    second = run.with_name(f"{run.name}-2")
    resolved = yaml.safe_load((second / "config.resolved.yaml").read_text("utf-8"))
    assert resolved["model"]["name_or_path"] == str(run / "model")
    assert resolved["run"]["seed"] == 43
    assert resolved["training"]["max_steps"] == 2
    first_end = json.loads((run / "eval_results.json").read_text("utf-8"))
    second_start = json.loads((second / "eval_results.json").read_text("utf-8"))
    assert second_start["loss_before"] == pytest.approx(first_end["loss"], rel=1e-6)

    longer = command(*arguments, "--resume", "auto", "training.max_steps=3")
    assert longer.code == 4
    assert longer.err.splitlines()[-1].startswith(prefix)
    assert "the run: 1-3" in shlex.split(longer.err.splitlines()[-1])[-2]


def test_the_config_is_kept_as_it_was_written(
    command: Command, config_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = config_file()
    path.write_text("# why we train\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert command("train", "--config", path, "training.max_steps=1").code == 0
    assert (tmp_path / "run" / "config.yaml").read_text("utf-8") == path.read_text("utf-8")
    resolved = yaml.safe_load((tmp_path / "run" / "config.resolved.yaml").read_text("utf-8"))
    assert resolved["training"]["max_steps"] == 1
    assert resolved["training"]["micro_batch_size"] == 8
    assert resolved["model"]["attn_implementation"] in ("eager", "sdpa")
    shutil.rmtree(tmp_path / "run")
    assert command("train", "--config", path, "training.max_steps=1").code == 0


def test_eval_of_an_encoder_without_a_head_repeats_the_perplexity_before(
    command: Any, config_file: Callable[..., Path], model_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoder = tmp_path / "encoder"
    AutoModel.from_pretrained(model_dir).save_pretrained(encoder)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(encoder)
    path = config_file(model={"name_or_path": str(encoder)}, training={"max_steps": 1})
    assert command("train", "--config", path).code == 0
    results = json.loads((tmp_path / "run" / "eval_results.json").read_text(encoding="utf-8"))
    assert results["model_head_was_new"]
    evaluated = command("eval", "--model", str(encoder), "--config", path, "--json")
    assert json.loads(evaluated.out)[0]["perplexity"] == pytest.approx(
        results["perplexity_before"], rel=1e-6
    )


def test_without_a_command_the_help_is_shown(command: Any) -> None:
    result = command()
    assert result.code == 0
    assert result.out.startswith("Usage: mlmtune")
    assert "\n  train " in result.out
