"""A run's directory, for Python."""

import json
from dataclasses import dataclass
from html import escape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mlmtune.config import ClassificationConfig, Config
from mlmtune.config_loading import kind_of_config, load_config
from mlmtune.errors import ConfigError
from mlmtune.locations import expand_home, run_directory
from mlmtune.training.run_dir import RESOLVED_CONFIG, RunDir, finished_run_dir

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

REPORT_HEIGHT = 640
"""Pixels; the first screen of a report is as high."""

SHOWN = {
    "global_step": "steps",
    "eval_perplexity_before": "perplexity before",
    "eval_perplexity": "perplexity after",
    "test_accuracy": "accuracy on the test set",
    "test_macro_f1": "macro-F1 on the test set",
}
"""The results that a notebook shows of a run without a report."""


@dataclass(frozen=True)
class Run:
    """A run, by its directory; also one that is in progress or was stopped.

    Attributes:
        path: The directory.
    """

    path: Path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open the directory of a run, or its `model/`.

        Raises:
            ConfigError: There is no run in it.
        """
        folder = run_directory(expand_home(path))
        if folder is None:
            raise ConfigError(f"{path}: there is no run in it (no status.json)")
        return cls(folder)

    @property
    def state(self) -> str:
        """`preparing`, `running`, `finished`, `interrupted` or `failed`."""
        return str(self._directory.read_status().get("state", "unknown"))

    @property
    def config(self) -> Config | ClassificationConfig:
        """The config with every `auto` decided."""
        path = self.path / RESOLVED_CONFIG
        return load_config(path, kind=kind_of_config(path))

    @property
    def results(self) -> dict[str, Any]:
        """The content of all_results.json.

        Raises:
            ConfigError: The run has not finished.
        """
        return finished_run_dir(self.path).read_json("all_results.json") or {}

    @property
    def metrics(self) -> Any:
        """The lines of metrics.jsonl, as a pandas DataFrame; without pandas, as a list of dicts."""
        records, _ = self._directory.read_metrics()
        if find_spec("pandas") is None:
            return records
        return import_module("pandas").DataFrame(records)

    @property
    def verdict(self) -> str | None:
        """What the report says in a word: `improved`, `mixed`, `no clear change` or `worse`."""
        report = self._directory.read_json("report.json") or {}
        verdicts = report.get("verdicts") or [{}]
        label: str | None = verdicts[0].get("label")
        return label

    def model(self) -> "PreTrainedModel":
        """Load the result, as the class of its architecture.

        Raises:
            ConfigError: The run has not finished.
        """
        transformers = import_module("transformers")
        folder = finished_run_dir(self.path).model
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = getattr(transformers, config["architectures"][0])
        loaded: PreTrainedModel = kind.from_pretrained(folder)
        return loaded

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """Load the tokenizer of the result.

        Raises:
            ConfigError: The run has not finished.
        """
        folder = finished_run_dir(self.path).model
        loaded: PreTrainedTokenizerFast = import_module(
            "transformers"
        ).AutoTokenizer.from_pretrained(folder)
        return loaded

    @property
    def _directory(self) -> RunDir:
        return RunDir(self.path)

    def _repr_html_(self) -> str:
        """Show the report in a notebook; without one, the state and the results."""
        report = self.path / "report.html"
        if report.is_file():
            # A frame keeps the styles of the report and of the notebook apart.
            page = escape(report.read_text(encoding="utf-8"))
            return (
                f'<iframe srcdoc="{page}" title="report of {escape(self.path.name)}" '
                f'style="width: 100%; height: {REPORT_HEIGHT}px; border: 0"></iframe>'
            )
        shown = {"state": self.state}
        if self.state == "finished":
            results = self.results
            shown |= {what: f"{results[key]:,g}" for key, what in SHOWN.items() if key in results}
        rows = "".join(f"<tr><td>{what}</td><td>{value}</td></tr>" for what, value in shown.items())
        return f"<p>{escape(str(self.path))}</p><table>{rows}</table>"
