"""Imports point one way, and none hides in a function."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlmtune
from mlmtune.cli import app

ROOT = Path(mlmtune.__file__).parent

# Lowest first; a package may import from its own row and from those above it in this list.
LAYERS = (
    {"config", "config_loading", "config_problems", "config_schema", "console",
     "errors", "files", "hub", "integrity", "locations", "locks", "numbers", "printable",
     "randomness", "redaction", "shell", "tables", "yaml_document"},
    {"corpus"},
    {"cluster"},
    {"tokens"},
    {"masking"},
    {"modeling"},
    {"vocabulary"},
    {"evaluation"},
    {"sharing"},
    {"training"},
    {"classification"},
    {"report"},
    {"merging"},
    {"drafting"},
    {"exits"},
    {"commands"},
    {"run"},
    {"api"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)  # fmt: skip

# Where an import waits until it is needed: commands must start without torch, the clients of the
# hub and of other places are loaded only where something lies there, extras may be missing, and
# bm25s brings along SciPy where it is installed.
MAY_IMPORT_IN_FUNCTIONS = {
    "classification/entity_metrics.py", "classification/frozen.py", "cli.py",
    "commands/starting.py", "hub.py", "modeling/locating.py", "corpus/hub_datasets.py",
    "cluster/choosing.py", "corpus/band_search.py", "corpus/cleaning.py", "corpus/languages.py",
    "corpus/near_duplicates.py",
    "corpus/compression.py", "corpus/formats/docx.py",
    "corpus/formats/epub.py", "corpus/formats/html.py", "corpus/formats/notebook.py",
    "corpus/formats/parquet.py", "corpus/formats/pdf.py", "corpus/formats/pptx.py",
    "corpus/formats/rst.py",
    "corpus/remote.py", "evaluation/bm25.py", "tokens/sentences.py", "tokens/words.py",
}  # fmt: skip

# What commands do before they import their libraries.
LIGHT = (
    "commands/__init__.py", "commands/options.py", "commands/starting.py", "commands/init.py",
    "commands/adapted_model.py", "commands/embed_plan.py", "commands/export_plan.py",
    "commands/fill_input.py", "commands/merge_grid.py", "commands/sweep_grid.py",
    "report/runs.py",
)  # fmt: skip

SOURCES = sorted(ROOT.rglob("*.py"))


def part_of(module: str) -> str:
    """`mlmtune.training.loop` -> `training`; `mlmtune` -> `__init__`."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def layer_of(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of the package that a source imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            # `from mlmtune import config` names a module; `from mlmtune.errors import X` a part.
            if node.module == "mlmtune":
                yield from (
                    f"mlmtune.{name.name}" for name in node.names if name.name != "__version__"
                )
            else:
                yield node.module


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_source_has_a_layer() -> None:
    parts = {name_of(path).split("/")[0].removesuffix(".py") for path in SOURCES}
    assert parts == set().union(*LAYERS)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    mine = layer_of(name_of(path).split("/")[0].removesuffix(".py"))
    for module in imported(parse(path)):
        if module.split(".")[0] == "mlmtune":
            assert layer_of(part_of(module)) <= mine, f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_import_hides_in_a_function(path: Path) -> None:
    if name_of(path) in MAY_IMPORT_IN_FUNCTIONS:
        return
    hidden = [
        ast.unparse(node)
        for function in ast.walk(parse(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert hidden == []


def test_there_is_no_circle() -> None:
    """Between modules, whatever their packages; imports for type checkers count, too."""
    graph = {
        ".".join(("mlmtune", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): {m for m in imported(parse(path)) if m.split(".")[0] == "mlmtune"}
        for path in SOURCES
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above, module])
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*above, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_the_config_and_the_command_line_load_no_torch_by_themselves() -> None:
    for path in SOURCES:
        part = name_of(path).split("/")[0].removesuffix(".py")
        if layer_of(part) == 0 or part in ("exits", "cli", "__main__") or name_of(path) in LIGHT:
            top = [n for n in parse(path).body if isinstance(n, ast.Import | ast.ImportFrom)]
            names = {m.split(".")[0] for node in top for m in imported(ast.Module([node], []))}
            assert not names & {"torch", "transformers", "accelerate", "datasets"}, name_of(path)


def test_each_command_is_in_the_module_of_its_name() -> None:
    """A command of `cli.py` imports its module when it runs."""
    for command in app.registered_commands:
        function = command.callback
        assert function is not None
        name = command.name or function.__name__
        used = set(imported(ast.parse(inspect.cleandoc(inspect.getsource(function)))))
        assert f"mlmtune.commands.{name}" in used
