"""Where a run computes and in which precision. Decided by tables, never by a timing race."""

import ctypes
import faulthandler
import gc
import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import (
    DistributedType,
    GradientAccumulationPlugin,
    broadcast_object_list,
    parse_flag_from_env,
)  # fmt: skip

from mlmtune.errors import ConfigError, MlmtuneError

T = TypeVar("T")

UNSUPPORTED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
"""They spread the weights over processes; checkpoints here hold those of one."""


def resolve_precision(requested: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16` for a device.

    Args:
        requested: the config's word. `auto` follows what `accelerate launch` was told, else takes
            bf16 where the device computes in it natively (a GPU with bf16 units, a CPU with AMX
            or AVX-512 BF16), else fp32.
        device: where the model runs.

    Raises:
        ConfigError: fp16 without a GPU, where Accelerate would neither refuse nor scale.
    """
    if requested == "auto":
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        requested = launched if launched in ("bf16", "fp16") else _native_precision(device)
    if requested == "fp16" and device.type == "cpu":
        raise ConfigError(
            "training.precision: fp16 needs a GPU and there is none here; set it to bf16, fp32 or "
            "auto"
        )
    if requested == "bf16" and device.type == "cpu" and not survives_bf16():
        raise ConfigError(
            "training.precision: bf16 crashes on this CPU (a virtual machine that announces AMX "
            "but has no tiles); set it to fp32 or auto, or set the environment variable "
            "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16, which is slow"
        )
    return requested


def _native_precision(device: torch.device) -> str:
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        names = ("amx_bf16", "avx512_bf16", "bf16")
        has_bf16 = any(capabilities.get(name, False) for name in names) and survives_bf16()
    else:
        has_bf16 = False
    return "bf16" if has_bf16 else "fp32"


@cache
def survives_bf16() -> bool:
    """Whether a bf16 matrix product can be computed here without killing the process.

    Some virtual machines announce AMX and leave its tile palette (CPUID leaf 1DH) empty; oneDNN
    does not look there, and the process dies of an illegal instruction. So a child tries first.
    """
    if not hasattr(os, "fork"):
        return True
    with warnings.catch_warnings():
        # Python warns of forks beside threads. The child takes no lock: it multiplies and leaves.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            faulthandler.disable()  # here a crash is an answer
            torch.set_num_threads(1)
            matrix = torch.ones(256, 256, dtype=torch.bfloat16)
            torch.nn.functional.linear(matrix, matrix)
            status = 0
        finally:
            os._exit(status)  # an error must not go on as a second copy of the whole program
    return os.waitpid(child, 0)[1] == 0


def free_cached_memory(device: torch.device) -> None:
    """Give back what the allocator keeps for later; after an error, before a smaller try."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Let the C library keep blocks that were freed for the next step, up to 64 MB each."""
    # By default glibc gets each large activation from the kernel, which zeroes it page by page, and
    # gives it back. The largest are left to that: kept, they would scatter over a larger heap.
    # -3 and -1 are M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of <malloc.h>.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-3, 1 << 26)
        mallopt(-1, (1 << 31) - 1)


def build_accelerator(precision: str) -> Accelerator:
    """Join the processes that were launched together and choose device and precision.

    Accumulation is left to the loop, which divides by masked tokens: Accelerate's own would
    divide the loss by the number of micro-batches.

    Raises:
        ConfigError: fp16 without a GPU; or a launcher started several processes and Accelerate
            sees one, so that each would run the whole job in the same directory.
    """
    # Accelerator() looks at the variable, PartialState() alone does not, and the first one decides.
    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    if device.type == "cpu":
        keep_freed_memory()
    resolved = resolve_precision(precision, device)
    accelerator = Accelerator(
        mixed_precision="no" if resolved == "fp32" else resolved,
        # As a number it would give way to ACCELERATE_GRADIENT_ACCUMULATION_STEPS.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # Buffers are constants here; sending them around would wait on processes that evaluate.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.distributed_type in UNSUPPORTED:
        raise ConfigError(
            f"Accelerate is set to {accelerator.distributed_type.value}; only plain multi-GPU "
            "(DDP) is built: answer no to DeepSpeed, FullyShardedDataParallel and Megatron-LM in "
            "`accelerate config`"
        )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ConfigError(
            f"{launched} processes were launched, but each would run alone (Accelerate sees "
            f"{accelerator.num_processes}); on CPUs use: ACCELERATE_USE_CPU=true torchrun "
            f"--nproc_per_node {launched} -m mlmtune ..."
        )
    return accelerator


def decided_by_main(accelerator: Accelerator, decide: Callable[[], T]) -> T:
    """What `decide` returns in the main process, in every process; or its error, in every process.

    So that all go the same way even where they see a shared disk at different moments, and none
    waits for one that has failed.
    """
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = decide()
        except MlmtuneError as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return cast(T, outcome[0])


def precision_of(accelerator: Accelerator) -> str:
    """The config's word for what an accelerator computes in."""
    return "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)
