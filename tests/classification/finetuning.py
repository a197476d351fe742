"""Fine-tunes by several configs, one after the other, in each of several processes.

torchrun finetuning.py CONFIG.yaml ...
"""

import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mlmtune.classification.building import build_task
from mlmtune.config import ClassificationConfig
from mlmtune.config_loading import load_config
from mlmtune.training import loop
from mlmtune.training.run_options import RunOptions


def keep(accelerator: Any) -> None:
    """The next run needs the processes, too."""


if __name__ == "__main__":
    Accelerator.end_training = keep
    for path in sys.argv[1:]:
        loop.train(load_config(Path(path), kind=ClassificationConfig), RunOptions(), build_task)
