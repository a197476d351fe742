"""The wheel that users get, in an environment with its dependencies and nothing of this tree."""

import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from launching import TIMEOUT_SECONDS, environment

ROOT = Path(__file__).parent.parent


def run(*command: Any, folder: Path, **variables: str) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment(**variables), capture_output=True,
        text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT,
        folder=ROOT)  # fmt: skip
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it; what the wheel needs is borrowed from the tests'."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps",
        "--disable-pip-version-check", wheel, folder=folder)  # fmt: skip
    [packages] = folder.glob("lib/*/site-packages")
    # A path in a .pth is searched last, and .pth files there, such as that of this tree, are not
    # followed.
    borrowed = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return python


def test_the_wheel_has_all_that_is_not_python(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    beside_python = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "mlmtune").rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert beside_python <= names
    configs = {f"mlmtune/configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    assert configs <= names
    assert not [name for name in names if not name.startswith("mlmtune")]


def test_the_wheel_runs_the_quickstart_from_another_folder(python: Path, tmp_path: Path) -> None:
    where = run(python, "-c", "import mlmtune; print(mlmtune.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    command = python.parent / "mlmtune"
    run(command, "init", "quickstart", folder=tmp_path)
    shown = run(
        command, "train", "--config", "quickstart.yaml", "training.max_steps=2",
        "evaluation.max_chunks=4", "corpus.sources.0.max_documents=20",
        "chunking.chunk_length=64", folder=tmp_path, MLMTUNE_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert "the model is in runs/quickstart/model" in shown
    run_folder = tmp_path / "runs" / "quickstart"
    assert (run_folder / "model" / "README.md").is_file()
    assert (run_folder / "report.html").is_file()


def test_the_python_versions_that_are_promised_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'requires-python = ">=3.11"' in text
    for minor in (11, 12, 13):
        assert f'"Programming Language :: Python :: 3.{minor}"' in text
