"""One whole run, then one that stands still before a step, to be killed there.

    torchrun pausing.py WHOLE.yaml KILLED.yaml STEP FOLDER

Each process leaves a file in FOLDER once it stands still. Both runs in one launch: it costs ten
seconds.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mlmtune.config_loading import load_config
from mlmtune.training import loop
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.run_options import RunOptions


def main(whole: str, killed: str, step: str, folder: str) -> None:
    Accelerator.end_training = lambda self: None  # the second run needs the processes, too
    loop.train(load_config(Path(whole)), RunOptions(), build_masked_lm)

    take_step = loop.take_step

    def stand_still(learner: Any, task: Any, state: Any, *arguments: Any) -> Any:
        if state.step == int(step):
            (Path(folder) / f"standing-{os.environ['RANK']}").touch()
            time.sleep(600)
        return take_step(learner, task, state, *arguments)

    loop.take_step = stand_still
    loop.train(load_config(Path(killed)), RunOptions(), build_masked_lm)


if __name__ == "__main__":
    main(*sys.argv[1:])
