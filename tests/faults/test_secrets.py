"""A canary in the environment, the config and URLs is in no byte of what comes out."""

import subprocess
import sys
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from launching import TIMEOUT_SECONDS, environment
from local_hub import TOKEN, serving
from runs import Runs

from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.proof.report import report_on
from mlmtune.proof.runs import open_run

ENVIRONMENT_CANARY = "cnry-in-the-environment-0451"
CONFIG_CANARY = TOKEN
URL_CANARY = "cnryInTheUrl0451"
CANARIES = (ENVIRONMENT_CANARY, CONFIG_CANARY, URL_CANARY)


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
def served_text(corpus_dir: Path) -> Any:
    """The address of the corpus's files; what is asked for is kept in `asked`."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(corpus_dir))

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
    runs: Runs, tmp_path: Path, served_text: Any, model_dir: Path
) -> None:
    address, asked = served_text
    folder = tmp_path / "out"
    folder.mkdir()
    paths = [f"{address}/{n:02}.txt?sig={URL_CANARY}" for n in range(12)]
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
        + config.read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    with serving() as hub:
        secrets = {
            "HF_TOKEN": CONFIG_CANARY, "SOME_API_KEY": ENVIRONMENT_CANARY,
            "HF_ENDPOINT": hub.endpoint,
        }  # fmt: skip
        done = mlmtune("train", "--config", config, folder=folder, **secrets)
    assert (folder / "run" / "report.html").is_file(), done.stderr
    assert (folder / "run" / "model" / "README.md").is_file()
    assert list((folder / "trackio").glob("*.db"))
    assert list((folder / "run" / "tensorboard").rglob("events*"))
    assert any(URL_CANARY in path for path in asked)  # it was used
    assert found_in(folder) == []
    for stream in (done.stdout, done.stderr):
        assert not [canary for canary in CANARIES if canary.encode() in stream]


@pytest.mark.parametrize(
    "override",
    [
        f"hub.token={CONFIG_CANARY}",
        f"corpus.sources.0.path=https://me:{URL_CANARY}@host/a.txt",
        f"corpus.sources.0.path=http://127.0.0.1:9/a.txt?sig={URL_CANARY}",
        f"corpus.sources.0.git=https://{URL_CANARY}@host/repo",
        f"model.name_or_path=/nowhere/{ENVIRONMENT_CANARY}",
        f"training.epochs={CONFIG_CANARY}",
        f"corpus.sources.0.path=https://host/a.txt?sig={URL_CANARY} more",
        f"hub.hub_model_id={CONFIG_CANARY}/a/b",
    ],
)
def test_no_error_says_it(config_file: Callable[..., Path], tmp_path: Path, override: str) -> None:
    config = config_file()
    secrets = {"HF_TOKEN": CONFIG_CANARY, "SOME_API_KEY": ENVIRONMENT_CANARY}
    done = mlmtune("check", "--config", config, override, folder=tmp_path, **secrets)
    assert done.returncode not in (0, 1), done.stderr
    said = done.stdout + done.stderr
    assert not [canary for canary in CANARIES if canary.encode() in said], said


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
    report_on([open_run(run.path)], [], None, Console(is_quiet=True))
    assert found_in(run.path) == []
