"""Starting several processes that share a run."""

import os
import socket
import subprocess
import sys
from typing import Any

import torch
from local_hub import TOKEN, LocalHub

TIMEOUT_SECONDS = 240
LAUNCH_VARIABLES = (
    "ACCELERATE_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "MLMTUNE_LAUNCH",
)  # fmt: skip


def environment(**variables: str) -> dict[str, str]:
    """A child's: as many threads as here, for the same bits, and no launcher's leftovers."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCH_VARIABLES)}
    return {**kept, "OMP_NUM_THREADS": str(torch.get_num_threads()), **variables}


def torchrun(*arguments: Any, num_processes: int = 2) -> list[str]:
    """The command that starts a script or a module with arguments in several processes."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc_per_node", str(num_processes), *map(str, arguments),
    ]  # fmt: skip


def mlmtune(*arguments: Any, hub: LocalHub, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own; its hub is the local one."""
    return subprocess.run(
        [sys.executable, "-m", "mlmtune", *map(str, arguments)],
        env=environment(HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN, **variables),
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
