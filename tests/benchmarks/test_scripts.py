import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = (
    "training", "chunks", "corpus", "collator", "evaluation", "startup", "memory", "memory_table",
    "memory_estimate", "quality", "command", "gpu", "vocabulary", "padding", "attention", "merging",
    "retrieval", "added_words", "languages", "selection", "cluster",
    "near_duplicates",
)  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_needs_no_libraries_and_offers_json(name):
    # Without torch: what a parent holds, its children would be charged with.
    command = "import runpy, sys; sys.argv = sys.argv[1:]\ntry:\n"
    command += "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    command += "finally:\n    assert 'torch' not in sys.modules"
    path = BENCHMARKS / f"{name}.py"
    done = subprocess.run(
        [sys.executable, "-c", command, str(path), "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{BENCHMARKS}:{BENCHMARKS.parent}", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "--json FILE" in done.stdout


def test_the_readme_has_every_script_and_no_other():
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    with_command_line = {
        path.stem
        for path in BENCHMARKS.glob("*.py")
        if "def command_line" in path.read_text(encoding="utf-8")
    }
    assert with_command_line == set(SCRIPTS)
    for name in SCRIPTS:
        assert f"python benchmarks/{name}.py" in readme


def test_a_wrong_argument_is_told_by_the_script_itself():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "training.py"), "--model", "gpt"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "invalid choice: 'gpt'" in done.stderr
