"""Jupyter notebooks: a file is a document."""

import warnings
from collections.abc import Iterator
from typing import Any

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import read_text
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import FileLeftOut, RawDocument, Record


def read_notebook(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Join the cells: prose as it is, code fenced, and below it the text that it has printed."""
    import nbformat

    from mlmtune.corpus.html_markdown import fenced

    content = read_text(path, decoding=decoding)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about cells without an id, which old notebooks lack
            notebook = nbformat.reads(content, as_version=4)  # type: ignore[no-untyped-call]
        cells = [(cell.cell_type, _joined(cell.source), _outputs(cell)) for cell in notebook.cells]
    except Exception as error:  # of JSON, of the schema, of what is not where it should be
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileLeftOut("broken", f"not a notebook ({said})", broken=True) from error
    parts, num_removed = [], 0
    for kind, text, outputs in cells:
        if text.strip():
            parts.append(text if kind == "markdown" else fenced(text.strip("\n")))
        if source.outputs == "keep":
            parts += [fenced(output) for output in outputs]
        else:
            num_removed += sum(map(len, outputs))
    yield RawDocument("\n\n".join(parts), removed={"outputs": num_removed})


def _outputs(cell: Any) -> list[str]:
    """Return the text that a cell has printed or returned; errors and pictures are left out."""
    texts = [
        _joined(output["text"] if "text" in output else output["data"].get("text/plain", ""))
        for output in cell.get("outputs", [])
        if output["output_type"] in ("stream", "execute_result", "display_data")
    ]
    return [text.strip("\n") for text in texts if text.strip()]


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


FORMAT = Format(
    read_notebook, endings=(".ipynb",), markup="markdown", needs=("nbformat", "markdownify", "lxml")
)
