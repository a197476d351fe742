"""Several runs by several processes, in one launch: it costs ten seconds.

torchrun sharded_runs.py FOLDER

NAME.yaml of FOLDER is trained whole. NAME.stopped.yaml is stopped by a signal after step STOP, and
then resumed with the settings of NAME.resumed.yaml. NAME.json says what each process kept.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from mlmtune.config_loading import load_config
from mlmtune.errors import Interrupted
from mlmtune.training import loop
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.run_options import RunOptions

STOP = 3


def train(config: Path, resume: str = "never", stop: int | None = None) -> None:
    take_step = loop.take_step
    kept: list[str] = []

    def take_step_and_note(learner: Any, task: Any, state: Any, *arguments: Any) -> Any:
        taken = take_step(learner, task, state, *arguments)
        if state.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        (optimizer,) = [learner.plain_optimizer]
        kept[:] = [
            name
            for group in optimizer.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
            if optimizer.state.get(parameter)
        ]
        return taken

    loop.take_step = take_step_and_note
    try:
        loop.train(load_config(config), RunOptions(resume), build_masked_lm)
    except Interrupted:
        assert stop is not None
    finally:
        loop.take_step = take_step
    of_all = gather_object([kept])
    if Accelerator().is_main_process:
        config.with_suffix(".json").write_text(json.dumps(of_all), encoding="utf-8")


def main(folder: Path) -> None:
    end_training = Accelerator.end_training
    Accelerator.end_training = lambda self: None
    for config in sorted(folder.glob("*.yaml")):
        name, _, kind = config.stem.partition(".")
        if kind == "":
            train(config)
        elif kind == "stopped":
            train(config, stop=STOP)
            train(folder / f"{name}.resumed.yaml", resume="auto")
    end_training(Accelerator())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
