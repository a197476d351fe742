"""The model that `export` and `embed` start from, and the folder beside it that they write."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mlmtune.errors import ConfigError
from mlmtune.locations import MERGE_RECORD, expand_home
from mlmtune.report.runs import FinishedRun, read_finished_run
from mlmtune.training.run_dir import read_model_record


@dataclass(frozen=True)
class AdaptedModel:
    """The result of a run, or a merged model.

    Attributes:
        run: The run that has the text of the model; the first of those that were merged.
        folder: The folder of the model.
    """

    run: FinishedRun
    folder: Path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the model of a run, or a merged model.

        Args:
            path: The directory of a finished run, its model/, or the folder of a merged model.

        Raises:
            ConfigError: There is no finished run, or the one that was merged is no longer there.
            CheckpointError: A file of the run or of the merged model is missing or damaged.
        """
        if (path / MERGE_RECORD).is_file():
            merged = Path(read_model_record(path, MERGE_RECORD)["runs"][0])
            if not merged.is_dir():
                raise ConfigError(
                    f"{path}: the run that it was merged from is not in {merged}; put it back "
                    "there, because its text is needed"
                )
            return cls(read_finished_run(merged), path)
        run = read_finished_run(path)
        return cls(run, run.model)

    def free_folder(self, output: Path | None, name: str) -> Path:
        """Return the folder to write: `--output`, or that name in the folder of the run or merge.

        Raises:
            ConfigError: It exists.
        """
        beside = self.run.path if self.folder == self.run.model else self.folder
        target = expand_home(output) if output else beside / name
        if target.exists() or target.is_symlink():
            raise ConfigError(
                f"{target} exists already; delete it, or give another folder by --output"
            )
        return target
