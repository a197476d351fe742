"""The gradient of a run's first step; as a script, of several runs by several processes."""

import gc
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mlmtune.config_loading import load_config
from mlmtune.training.loop import train
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.run_options import RunOptions


def first_gradient(config: Path) -> dict[str, torch.Tensor]:
    """What the optimizer is given by a run of one step, by parameter."""
    found: dict[str, torch.Tensor] = {}

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        assert not found
        for group in optimizer.param_groups:
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                found[name] = parameter.grad.clone()

    handle = register_optimizer_step_pre_hook(keep)
    try:
        train(load_config(config), RunOptions(), build_masked_lm)
    finally:
        handle.remove()
    return found


def main(folder: Path) -> None:
    """Write NAME.safetensors for each NAME.yaml of a folder. One launch does for all of them."""
    end_training = Accelerator.end_training
    Accelerator.end_training = lambda self: None
    for config in sorted(folder.glob("*.yaml")):
        gradient = first_gradient(config)
        accelerator = Accelerator()
        assert accelerator.num_processes == 2
        if accelerator.is_main_process:
            save_file(gradient, config.with_suffix(".safetensors"))
        accelerator.wait_for_everyone()
    gc.collect()
    end_training(accelerator)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
