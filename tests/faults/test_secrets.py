"""A canary in the environment, the config and URLs is in no byte of what comes out."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest
from launching import TIMEOUT_SECONDS, environment
from local_hub import TOKEN, serving
from runs import Runs

from mlmtune.cli import main
from mlmtune.commands.check import preview
from mlmtune.commands.corpus import show_corpus
from mlmtune.commands.report import report_on
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.report.runs import read_finished_run

ENVIRONMENT_CANARY = "cnry-in-the-environment-0451"
CONFIG_CANARY = TOKEN
URL_CANARY = "cnryInTheUrl0451"
SAS_CANARY = "cnryInTheSas+/0451=="
ACCOUNT_CANARY = "cnryOfTheAccount+/0451=="
CANARIES = (ENVIRONMENT_CANARY, CONFIG_CANARY, URL_CANARY, SAS_CANARY, ACCOUNT_CANARY)

NAMES = (
    "paren(1).txt", "it's.txt", 'so "called".txt', "with space.txt", "größe.txt", "50%25.txt",
    "a,b;c=d&e.txt", "{x}.txt",
)  # fmt: skip
"""What paths of URLs hold in practice, also where they should be quoted."""


def mlmtune(*arguments: Any, folder: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "mlmtune", *map(str, arguments)], cwd=folder,
        env=environment(
            HF_HUB_OFFLINE="0", HF_HOME=str(folder / "hf"), TRACKIO_DIR=str(folder / "trackio"),
            **variables,
        ),
        capture_output=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip


def found_in(folder: Path) -> list[tuple[str, str]]:
    return [
        (canary, str(path.relative_to(folder)))
        for path in folder.rglob("*")
        if path.is_file()
        for content in [path.read_bytes()]
        for canary in CANARIES
        if canary.encode() in content
    ]


@pytest.fixture
def served_text(corpus_dir: Path, tmp_path: Path) -> Any:
    """Where the corpus's files are served under odd names; what is asked for is in `asked`."""
    asked: list[str] = []
    served = tmp_path / "served"
    shutil.copytree(corpus_dir, served)
    for number, name in enumerate(NAMES):
        (served / f"{number:02}.txt").rename(served / unquote(name))

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_canary_is_in_no_byte_of_any_output(
    runs: Runs, tmp_path: Path, served_text: Any, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    address, asked = served_text
    folder = tmp_path / "out"
    folder.mkdir()
    upper = address.replace("http", "HTTP")
    files = [*NAMES[2:], *(f"{n:02}.txt" for n in range(len(NAMES), 12))]
    paths = [
        f"{upper}/{NAMES[0]}?sig={URL_CANARY}",
        f"simplecache::{address}/{NAMES[1]}?sv=1&sig={URL_CANARY}#{URL_CANARY}",
        *(f"{address}/{name}?{URL_CANARY}" for name in files),
    ]
    config = runs.config(
        run={"output_dir": str(folder / "run")},
        corpus={
            "sources": [{"format": "text", "path": paths, "name": f"text of {CONFIG_CANARY}"}]
        },
        training={"max_steps": 2},
        tracking={
            "with": ["tensorboard", "trackio", "wandb"], "run_name": f"a {ENVIRONMENT_CANARY}",
        },
        evaluation={"examples": [f"start the [MASK] {CONFIG_CANARY}"]},
        hub={"hub_model_id": "tiny"},
    )  # fmt: skip
    config.write_text(
        f"# HF_TOKEN={CONFIG_CANARY}\n# see https://me:{URL_CANARY}@host/\n"
        f"# AccountName=a;AccountKey={ACCOUNT_CANARY};\n# Authorization: Bearer {URL_CANARY}\n"
        + config.read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    with serving() as hub:
        secrets = {
            "HF_TOKEN": CONFIG_CANARY, "SOME_API_KEY": ENVIRONMENT_CANARY,
            "STORAGE_SAS": f"sv=1&sig={SAS_CANARY}", "HF_ENDPOINT": hub.endpoint,
            "MLMTUNE_CACHE": str(folder / "cache"),
        }  # fmt: skip
        done = mlmtune("train", "--config", config, folder=folder, **secrets)
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    show_corpus(load_config(config), Console(), as_json=True, export_to=None, refresh=False)
    preview(load_config(config), measure=False, num_chunks=1, num_draws=1, compares=False)
    shown = capsys.readouterr()
    assert '"found": 12,' in shown.out
    assert (folder / "run" / "report.html").is_file(), done.stderr
    assert (folder / "run" / "model" / "README.md").is_file()
    assert list((folder / "trackio").glob("*.db"))
    assert list((folder / "run" / "tensorboard").rglob("events*"))
    assert any(URL_CANARY in path for path in asked)  # it was used
    assert found_in(folder) == []
    for said in (done.stdout.decode(), done.stderr.decode(), shown.out, shown.err):
        assert not [canary for canary in CANARIES if canary in said]
    resolved = load_config(folder / "run" / "config.resolved.yaml")
    assert resolved.corpus.sources[0].locations[0] == f"{upper}/{NAMES[0]}"
    assert load_config(folder / "run" / "config.yaml").corpus.sources == resolved.corpus.sources


@pytest.mark.parametrize(
    "override",
    [
        "hub.token=cnryPlain",
        "hub.token: cnryPlain",
        f"https://host/a(1).txt?x={URL_CANARY}",
        "hub={access_key: cnryPlain}",
        "corpus.sources.0.storage_options={account_key: cnryPlain}",
        f"corpus.sources.0.path=HTTP://127.0.0.1:9/a(1).txt?sig={URL_CANARY}",
        f"corpus.sources.0.path=simplecache::http://127.0.0.1:9/it's.txt?{URL_CANARY}",
        f"corpus.sources.0.path=s3://key:{URL_CANARY}@bucket/a b.txt",
        f"corpus.sources.0.path=/nowhere/{SAS_CANARY}",
        f"corpus.sources.0.path=https://me:{URL_CANARY}@host/a.txt",
        f"corpus.sources.0.path=http://127.0.0.1:9/a.txt?sig={URL_CANARY}",
        f"corpus.sources.0.git=https://{URL_CANARY}@host/repo",
        f"model.name_or_path=/nowhere/{ENVIRONMENT_CANARY}",
        f"training.epochs={CONFIG_CANARY}",
        f"corpus.sources.0.path=https://host/a.txt?sig={URL_CANARY} more",
        f"hub.hub_model_id={CONFIG_CANARY}/a/b",
    ],
)
def test_no_error_says_it(
    config_file: Callable[..., Path], override: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    # The name of a test, which this one's override is part of, is in the environment.
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", CONFIG_CANARY)
    monkeypatch.setenv("SOME_API_KEY_2", ENVIRONMENT_CANARY)
    monkeypatch.setenv("STORAGE_SAS", f"sv=1&sig={SAS_CANARY}")
    command = ["mlmtune", "corpus", "--config", str(config_file()), override]
    monkeypatch.setattr("sys.argv", command)
    with monkeypatch.context() as undone:
        undone.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code not in (0, 1)
    said = "".join(capsys.readouterr())
    assert "mlmtune: " in said
    assert not [canary for canary in (*CANARIES, "cnryPlain") if canary in said], said


def test_a_config_that_holds_a_secret_stays_one(
    runs: Runs, corpus_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken out of it leaves YAML that loads, so that the run can be resumed."""
    monkeypatch.setenv("SOME_API_KEY", ENVIRONMENT_CANARY)
    source = {"format": "text", "path": str(corpus_dir), "name": ENVIRONMENT_CANARY}
    run = runs.train(corpus={"sources": [source]}, training={"max_steps": 2})
    recorded = load_config(run.path / "config.resolved.yaml")
    assert recorded.corpus.sources[0].name == "[redacted]"
    before = run.times()
    runs.train(corpus={"sources": [source]}, training={"max_steps": 2}, resume="auto")
    assert run.times() == before
    report_on([read_finished_run(run.path)], [], None, Console(is_quiet=True))
    assert found_in(run.path) == []
