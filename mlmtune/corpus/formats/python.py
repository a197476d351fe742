"""Python: a string in a list or mapping that is assigned to a name is a document."""

import ast
import warnings
from collections.abc import Iterator
from itertools import count

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import read_bytes
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import BrokenRecord, FileLeftOut, RawDocument, Record, listed


def read_python(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Yield the strings assigned to a name in a Python file, which is parsed and never run."""
    content, text_field = read_bytes(path, decoding), source.text_field
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's own escapes
            module = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        detail = f"{where}not Python ({getattr(error, 'msg', said)})"
        raise FileLeftOut("broken", detail, broken=True) from error

    assigned = _assignments(module)
    if text_field not in assigned:
        detail = f"nothing is assigned to '{text_field}'; the names are: {listed(assigned)}"
        raise FileLeftOut("broken", f"{detail} (set text_field)", broken=True)
    yield from _python_records(assigned[text_field], text_field)


def _assignments(module: ast.Module) -> dict[str, ast.expr]:
    """Return what is last assigned to each name at the top level of a module."""
    assigned: dict[str, ast.expr] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        assigned.update((target.id, value) for target in targets if isinstance(target, ast.Name))
    return assigned


def _python_records(value: ast.expr, name: str) -> Iterator[Record]:
    """Yield the strings of a display in its order, which a set would not keep."""
    keys: list[ast.expr | None]
    match value:
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            keys, texts = [ast.Constant(number) for number in range(1, len(elements) + 1)], elements
        case ast.Dict(keys=keys, values=texts):
            pass
        case _:
            detail = (
                f"line {value.lineno}: '{name}' is not a list, tuple, set or mapping of strings"
            )
            raise FileLeftOut("broken", detail, broken=True)

    taken: set[str] = set()
    for key, text in zip(keys, texts, strict=True):
        where = f":{text.lineno}"
        try:
            name_of_text = None if key is None else ast.literal_eval(key)
            literal = ast.literal_eval(text)
        except (ValueError, TypeError, RecursionError, MemoryError):
            name_of_text = literal = None
        if name_of_text is None:
            yield BrokenRecord(where, f"an element of '{name}' is computed, not written out")
        elif not isinstance(literal, str):
            kind = type(literal).__name__
            yield BrokenRecord(where, f"an element of '{name}' is of type {kind}, not a string")
        else:
            # A mapping may have a key twice in the source; both texts are documents.
            position, numbers = f"#{name_of_text}", count(2)
            while position in taken:
                position = f"#{name_of_text} ({next(numbers)})"
            taken.add(position)
            yield RawDocument(literal, position)


FORMAT = Format(read_python, endings=(".py",))
