"""What Python gets: a cheap import, the same as the commands, and the documentation's examples."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import mlmtune
from mlmtune import errors
from mlmtune.config import ADDED_FORMATS, ADDED_STRATEGIES
from mlmtune.corpus import formats
from mlmtune.masking.selection import STRATEGIES

ROOT = Path(__file__).parent.parent
SMALL = {"training.max_steps": 2, "training.precision": "fp32", "evaluation.max_chunks": 8}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config_file: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(
        config_file("mine.yaml", run={"output_dir": "runs/mine"}, training={"max_steps": 2})
    )


@pytest.fixture
def additions() -> Iterator[None]:
    """What a test adds to the process is taken back."""
    yield
    for name in ADDED_STRATEGIES:
        del STRATEGIES[name]  # type: ignore[arg-type]
    formats._ADDED.clear()
    ADDED_FORMATS.clear()
    ADDED_STRATEGIES.clear()


def test_the_import_costs_nothing_until_something_is_used() -> None:
    code = (
        "import sys, mlmtune\n"
        "light = set(sys.modules)\n"
        "assert set(mlmtune.__all__) <= set(dir(mlmtune))\n"
        "mlmtune.load_config, mlmtune.Config, mlmtune.Run, mlmtune.add_format\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "for name in mlmtune.__all__: getattr(mlmtune, name)\n"
        "print(len({name for name in light if name.startswith('mlmtune')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mlmtune.trian  # noqa: B018


def test_every_error_of_the_documentation_exists() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(\w+Error|Interrupted)`", text):
        assert issubclass(getattr(errors, name), mlmtune.MlmtuneError)


def test_training_returns_the_run_that_the_command_writes(config: Path, runs: Any) -> None:
    run = mlmtune.train(config, report=False, quiet=True)
    expected = runs.train("other", training={"max_steps": 2})
    assert (run.path / "model" / "model.safetensors").read_bytes() == expected.model_bytes
    assert run.state == "finished"
    assert run.results["eval_perplexity"] == expected.json("eval_results.json")["perplexity"]
    assert run.config.training.max_steps == 2
    assert list(run.metrics["loss"].dropna()) == expected.losses
    assert type(run.model()).__name__ == "BertForMaskedLM"
    assert run.tokenizer().mask_token == "[MASK]"
    assert run.verdict is None
    assert "<td>finished</td>" in run._repr_html_()
    assert mlmtune.Run.load(run.path / "model") == mlmtune.Run.load(str(run.path)) == run
    with pytest.raises(mlmtune.MlmtuneError, match="--resume auto"):
        mlmtune.train(config, quiet=True)


def test_without_pandas_metrics_are_records(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = mlmtune.train(config, report=False, quiet=True)
    monkeypatch.setattr("mlmtune.run.find_spec", lambda name: None)
    assert [record["step"] for record in run.metrics if "loss" in record] == [1, 2]


def test_a_config_may_be_a_mapping_or_an_object_and_is_kept_as_yaml(config: Path) -> None:
    loaded = mlmtune.load_config(config)
    given = mlmtune.train(loaded, report=False, quiet=True, run={"output_dir": "runs/a"})
    written = mlmtune.load_config(given.path / "config.yaml")
    assert written.run.output_dir == "runs/a"
    again = mlmtune.train(
        loaded.model_dump(exclude_unset=True), report=False, quiet=True,
        **{"run.output_dir": "runs/b"},
    )  # fmt: skip
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (given, again)]
    assert weights[0] == weights[1]


def test_two_runs_of_a_process_may_have_two_precisions(config: Path) -> None:
    for precision in ("auto", "fp32"):
        run = mlmtune.train(
            config, report=False, quiet=True, training={"precision": precision},
            run={"output_dir": f"runs/{precision}"},
        )  # fmt: skip
    assert run.config.training.precision == "fp32"


def test_a_run_in_a_thread_trains_without_signals(config: Path) -> None:
    done: list[mlmtune.Run] = []
    thread = threading.Thread(
        target=lambda: done.append(mlmtune.train(config, report=False, quiet=True))
    )
    thread.start()
    thread.join()
    assert [run.state for run in done] == ["finished"]


def test_problems_of_settings_are_named_as_on_the_command_line(config: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"training\.epoch: .*epochs"):
        mlmtune.check(config, training={"epoch": 3})
    with pytest.raises(errors.ConfigError, match="there is no run in it"):
        mlmtune.Run.load("runs/none")
    with pytest.raises(errors.ConfigError, match="no such file"):
        mlmtune.train("none.yaml")


def test_shipped_names_are_not_replaced() -> None:
    with pytest.raises(errors.ConfigError, match="format 'text' already"):
        mlmtune.add_format("text", formats.format_of("text"))
    with pytest.raises(errors.ConfigError, match="strategy 'token' already"):
        mlmtune.add_strategy("token", STRATEGIES["token"])


def test_a_format_whose_code_changes_reads_its_text_again(
    config: Path, tmp_path: Path, additions: None
) -> None:
    def whole(path, source, decoding):  # type: ignore[no-untyped-def]
        yield mlmtune.RawDocument(Path(path).read_text())

    def halves(path, source, decoding):  # type: ignore[no-untyped-def]
        for half in Path(path).read_text().split("----"):
            yield mlmtune.RawDocument(half, position=f"#{len(half)}")

    for number in range(4):
        (tmp_path / f"{number}.two").write_text(f"start the {number} now----stop the {number} x")
    kept = []
    for read in (whole, halves):
        mlmtune.add_format("two", mlmtune.Format(read, endings=(".two",)))
        source = {"sources": [{"format": "two", "path": str(tmp_path)}]}
        kept.append(mlmtune.corpus_summary(config, corpus=source)["documents"]["kept"])
    assert kept == [4, 8]


def test_the_examples_of_the_documentation_run(
    config: Path, tmp_path: Path, model_dir: Path, corpus_dir: Path,
    monkeypatch: pytest.MonkeyPatch, additions: None, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One after the other, as somebody who reads the page would run them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "notes").symlink_to(corpus_dir)
    (tmp_path / "pages").mkdir()
    for number in range(4):
        text = f"start the report {number}\n== stop the room {number}\n"
        (tmp_path / "pages" / f"{number}.wiki").write_text(text)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.M)):
        code = block.replace("google-bert/bert-base-uncased", str(model_dir))
        code = code.replace('"max_steps": 100', '"max_steps": 2, "precision": "fp32"')
        file = tmp_path / f"block{number}.py"  # where inspect finds the source of functions
        file.write_text(code)
        exec(compile(code, file, "exec"), names)
    assert "runs/mine is not empty" in capsys.readouterr().out
    assert names["run"].path == Path("runs/pairs")
    assert "[[" not in names["filled"].text
    assert names["before"].model != names["after"].model


@pytest.mark.timeout(300)
def test_the_notebook_runs_and_shows_the_report(
    tmp_path: Path, model_dir: Path, corpus_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(ROOT / "docs" / "first-try.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells[0].source = f"import mlmtune\n\nMODEL, TEXT = {str(model_dir)!r}, {str(corpus_dir)!r}"
    cells[1].source = cells[1].source.replace('"max_steps": 20', '"max_steps": 2')
    NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in cells for output in cell.outputs]
    shown = [output.data.get("text/html", "") for output in outputs if "data" in output]
    assert any(html.startswith("<iframe srcdoc=") for html in shown)
    printed = [output.text for output in outputs if output.output_type == "stream"]
    assert any("step" in text and "2/2" in text for text in printed), "no bar of steps"
    saved = json.loads((tmp_path / "runs" / corpus_dir.name / "status.json").read_text())
    assert saved["state"] == "finished"
    assert os.path.isfile(tmp_path / "runs" / corpus_dir.name / "report.html")
