"""mlmtune adapts a pretrained masked language model to a domain's text, and shows the effect.

What is offered to Python is imported when it is first used: `import mlmtune` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlmtune.api import (
        check as check,
    )  # fmt: skip
    from mlmtune.api import (
        corpus_summary as corpus_summary,
    )
    from mlmtune.api import (
        draft as draft,
    )
    from mlmtune.api import (
        evaluate as evaluate,
    )
    from mlmtune.api import (
        fill as fill,
    )
    from mlmtune.api import (
        report_on as report_on,
    )
    from mlmtune.api import (
        train as train,
    )
    from mlmtune.config import ClassificationConfig as ClassificationConfig
    from mlmtune.config import Config as Config
    from mlmtune.config_loading import load_config as load_config
    from mlmtune.corpus.formats import Format as Format
    from mlmtune.corpus.formats import add_format as add_format
    from mlmtune.corpus.records import BrokenRecord as BrokenRecord
    from mlmtune.corpus.records import RawDocument as RawDocument
    from mlmtune.errors import MlmtuneError as MlmtuneError
    from mlmtune.masking.selection import Strategy as Strategy
    from mlmtune.masking.selection import add_strategy as add_strategy
    from mlmtune.run import Run as Run

__version__ = "0.1.0"

_HOMES = {
    "mlmtune.api": (
        "train", "check", "corpus_summary", "draft", "evaluate", "fill", "report_on",
    ),
    "mlmtune.run": ("Run",),
    "mlmtune.config": ("ClassificationConfig", "Config"),
    "mlmtune.config_loading": ("load_config",),
    "mlmtune.corpus.formats": ("Format", "add_format"),
    "mlmtune.corpus.records": ("BrokenRecord", "RawDocument"),
    "mlmtune.errors": ("MlmtuneError",),
    "mlmtune.masking.selection": ("Strategy", "add_strategy"),
}  # fmt: skip
"""The modules of what is offered."""

__all__ = ("__version__", *(name for names in _HOMES.values() for name in names))


def __getattr__(name: str) -> Any:
    """Import what is asked for, and keep it."""
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'mlmtune' has no attribute {name!r}")
    globals()[name] = getattr(import_module(home), name)
    return globals()[name]


def __dir__() -> list[str]:
    """Name what is offered, also before it is imported."""
    return sorted({*globals(), *__all__})
