"""The guide for contributors: the README's tree is complete, and the recipes work."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from test_imports import LAYERS

from mlmtune import __version__

ROOT = Path(__file__).parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def tree_of_readme() -> list[str]:
    """Return the paths below mlmtune/ in the README's tree; those of folders end with a slash."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.split("## The tree", 1)[1].split("```")[1]
    paths, folders = [], [""]
    for line in tree.split("\nmlmtune/\n", 1)[1].splitlines():
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            break
        name = line.split()[0]
        folders[indent // 2 :] = [name if name.endswith("/") else ""]
        paths.append("".join(folders[1 : indent // 2]) + name)
    return paths


def test_the_tree_of_the_readme_names_each_module_once() -> None:
    named = tree_of_readme()
    package = ROOT / "mlmtune"
    folders = {f"{path.relative_to(package).parent}/" for path in package.rglob("*/__init__.py")}
    # The folder of formats is named as a whole.
    modules = {
        path.relative_to(package).as_posix()
        for path in package.rglob("[!_]*.py")
        if path.parent.name != "formats"
    }
    assert [name for name, count in Counter(named).items() if count > 1] == []
    assert set(named) == modules | folders


def test_the_tour_gives_the_order_of_imports() -> None:
    chain = CONTRIBUTING.split("Imports point one way too: ", 1)[1].split(" -> the modules", 1)[0]
    packages = [
        part
        for layer in reversed(LAYERS[1:])
        for part in layer
        if part not in ("__main__", "__init__")
    ]
    assert [name.strip() for name in chain.split("->")] == packages


def test_only_the_packages_from_sharing_up_know_the_whole_config() -> None:
    lower = LAYERS[1 : LAYERS.index({"evaluation"}) + 1]
    sources = [
        path
        for layer in lower
        for part in layer
        for path in (ROOT / "mlmtune" / part).rglob("*.py")
    ]
    assert len(sources) > 30
    assert not [
        path for path in sources if re.search(r"\bConfig\b", path.read_text(encoding="utf-8"))
    ]


@pytest.fixture
def follow(tmp_path: Path) -> Callable[..., None]:
    """Return a function that applies the changes of a recipe to a copy of the package.

    A change is (file, name in it, old text, new text); the recipe must name the file and the name.
    """
    copy = tmp_path / "copy"
    shutil.copytree(
        ROOT / "mlmtune", copy / "mlmtune", ignore=shutil.ignore_patterns("__pycache__")
    )

    def apply(recipe: str, *changes: tuple[str, str, str, str]) -> None:
        words = CONTRIBUTING.split(f"**{recipe}.**", 1)[1].split("\n\n", 1)[0]
        named = " ".join(re.findall("`([^`]*)`", words))
        for file, name, old, new in changes:
            path = copy / "mlmtune" / file
            assert name in named, f"the recipe does not name {name}"
            assert file in named, f"the recipe does not name {file}"
            text = path.read_text(encoding="utf-8")
            assert text.count(old) == 1
            path.write_text(text.replace(old, new), encoding="utf-8")

    return apply


def run_copy(folder: Path, *arguments: object) -> str:
    """Run Python with the copy of the package, and return what it printed."""
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False,
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder / "copy")},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def test_a_format_is_added_as_the_recipe_says(
    follow: Callable[..., None], tmp_path: Path, model_dir: Path
) -> None:
    module = tmp_path / "copy" / "mlmtune" / "corpus" / "formats" / "reversed.py"
    module.write_text(
        '''"""Text that is written from right to left: a file is a document."""

from collections.abc import Iterator

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import read_text
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import RawDocument, Record


def read_reversed(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Read the whole file, from its end."""
    yield RawDocument(read_text(path, decoding=decoding)[::-1])


FORMAT = Format(read_reversed, endings=(".rev",))
''',
        encoding="utf-8",
    )
    follow(
        "Add a source format",
        ("config.py", "FormatName",
         '"python", "dataset"\n]', '"python", "reversed", "dataset"\n]'),
        ("config.py", "ForFormats",
         'ForFormats("markdown", "text", ', 'ForFormats("reversed", "markdown", "text", '),
    )  # fmt: skip
    pages = tmp_path / "pages"
    pages.mkdir()
    for name, text in {"a.rev": "eno txet", "b.rev": "owt txet", "c.txt": "not read"}.items():
        (pages / name).write_text(text, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(
        f"model: {{name_or_path: {model_dir}}}\nrun: {{output_dir: run}}\n"
        "corpus: {min_characters: 1,\n"
        "  sources: [{format: reversed, path: pages, encoding: utf-8}]}\n",
        encoding="utf-8",
    )
    run_copy(tmp_path, "-m", "mlmtune", "corpus", "--config", "config.yaml",
             "--export", "out.jsonl")  # fmt: skip
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["text one", "text two"]


def test_a_masking_strategy_is_added_as_the_recipe_says(
    follow: Callable[..., None], tmp_path: Path, model_dir: Path, corpus_dir: Path
) -> None:
    follow(
        "Add a masking strategy",
        ("masking/selection.py", "Grouping",
         "STRATEGIES: dict[StrategyName, Strategy] = {\n",
         "def two_word_heads(\n"
         "    chunks: ChunkBatch, keys: UInt64Array, config: MaskingConfig\n"
         ") -> NDArray[np.int64]:\n"
         '    """Two words in a row together."""\n'
         "    begins = chunks.word_starts & (np.cumsum(chunks.word_starts, axis=1) % 2 == 1)\n"
         "    follows_special = np.ones(begins.shape, dtype=bool)\n"
         "    follows_special[:, 1:] = chunks.special_tokens_mask[:, :-1]\n"
         "    return _heads(begins | (chunks.word_starts & follows_special))\n\n\n"
         "STRATEGIES: dict[StrategyName, Strategy] = {\n"),
        ("masking/selection.py", "STRATEGIES",
         '    "span": Strategy(',
         '    "two_words": Strategy(two_word_heads, "two words in a row", 8, '
         'keeps_words_whole=True),\n    "span": Strategy('),
        ("config.py", "StrategyName",
         'Literal["token", "whole_word", "span"]\n',
         'Literal["token", "whole_word", "two_words", "span"]\n'),
    )  # fmt: skip
    shutil.copytree(
        ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    laws = run_copy(
        tmp_path, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider",
        "tests/masking/test_selection.py", "-k", "two_words or every_strategy",
    )  # fmt: skip
    num_passed = re.search(r"(\d+) passed", laws)
    assert num_passed is not None
    assert int(num_passed[1]) > 8
    (tmp_path / "config.yaml").write_text(
        f"model: {{name_or_path: {model_dir}}}\nrun: {{output_dir: run}}\n"
        "masking: {strategy: two_words}\nchunking: {chunk_length: 32}\n"
        f"corpus: {{sources: [{{format: text, path: {corpus_dir}}}]}}\n",
        encoding="utf-8",
    )
    shown = run_copy(tmp_path, "-m", "mlmtune", "check", "--config", "config.yaml")
    assert "masking.strategy: two_words (two words in a row)" in shown


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == __version__
    assert citation["license"] == project["license"]
    assert citation["abstract"] == project["description"]
    assert citation["keywords"] == project["keywords"]
