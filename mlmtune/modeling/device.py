"""The device and the precision of a run, chosen by rules and never by measuring times."""

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

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The precision of matrix products, by `training.precision`."""

UNSUPPORTED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
"""Kinds that spread the weights over processes; a checkpoint holds the weights of one process."""


def num_gpus() -> int:
    """Return the number of GPUs that runs use here; 0 if Accelerate is set to use CPUs."""
    return 0 if parse_flag_from_env("ACCELERATE_USE_CPU") else torch.cuda.device_count()


def resolve_precision(requested: str, device: torch.device) -> str:
    """Return `fp32`, `bf16` or `fp16`.

    Args:
        requested: `training.precision`. `auto` follows the option of `accelerate launch`. Without
            one it is bf16 if the device computes in it natively (a GPU with bf16 units, a CPU with
            AMX or AVX-512 BF16), else fp32.
        device: The device that the model runs on.

    Raises:
        ConfigError: fp16 without a GPU, where Accelerate would neither refuse nor scale; or bf16
            on a CPU that crashes.
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
    has_bf16 = False
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        names = ("amx_bf16", "avx512_bf16", "bf16")
        has_bf16 = any(capabilities.get(name, False) for name in names) and survives_bf16()
    return "bf16" if has_bf16 else "fp32"


@cache
def survives_bf16() -> bool:
    """Whether this CPU computes a bf16 matrix product without killing the process.

    Some virtual machines announce AMX and leave its tile palette (CPUID leaf 1DH) empty. oneDNN
    does not read it, and the process dies of an illegal instruction. So a child process tries.
    """
    if not hasattr(os, "fork"):
        return True
    with warnings.catch_warnings():
        # Python warns of forks beside threads. This child takes no lock: it multiplies and exits.
        # A spawned process would import torch again, which takes seconds.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            faulthandler.disable()  # a crash is an expected answer, so it prints no traceback
            torch.set_num_threads(1)
            matrix = torch.ones(256, 256, dtype=torch.bfloat16)
            torch.nn.functional.linear(matrix, matrix)
            status = 0
        finally:
            os._exit(status)  # after an error, the child must not continue as a second program
    return os.waitpid(child, 0)[1] == 0


def free_cached_memory() -> None:
    """Release the memory that the allocator keeps for later, before a smaller batch is tried."""
    gc.collect()
    torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks of up to 64 MB for the next step."""
    # By default glibc gets each large activation from the kernel, which zeroes it page by page, and
    # returns it. Larger blocks are left to that, because keeping them would fragment the heap.
    # -3 and -1 are M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of <malloc.h>.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-3, 1 << 26)
        mallopt(-1, (1 << 31) - 1)


def use_deterministic_kernels() -> None:
    """Let a GPU compute the same bits each time, or raise where PyTorch has no such kernel.

    Otherwise the gradients of attention are added up in the order in which the GPU's blocks end.
    """
    # cuBLAS would choose its workspace at run time; this is the size of PyTorch's own.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # nothing here reads such memory


def build_accelerator(precision: str) -> Accelerator:
    """Join the processes that were launched together, and choose device and precision.

    The loop accumulates gradients and divides by the number of masked tokens. Accelerate would
    divide the loss by the number of micro-batches, so its own accumulation is off.

    Raises:
        ConfigError: The device has no such precision; Accelerate is set to a kind that is not
            supported; or a launcher started several processes and Accelerate sees one, so that
            each would run the whole job in the same directory.
    """
    # Accelerator() reads the variable and PartialState() does not, but the first of them decides.
    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    if device.type == "cpu":
        keep_freed_memory()
    elif device.type == "cuda":
        use_deterministic_kernels()
    resolved = resolve_precision(precision, device)
    accelerator = Accelerator(
        mixed_precision="no" if resolved == "fp32" else resolved,
        # ACCELERATE_GRADIENT_ACCUMULATION_STEPS would override a plain number.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # Buffers are constant. Broadcasting them would wait for processes that evaluate. A gradient
        # is a part of the buffer in which it is exchanged, and takes no memory beside it.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        ],
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
    """Call a function in the main process, and return its result or raise its error in all.

    Processes that look at a shared disk at different moments would decide differently, and would
    wait forever for one that has failed.
    """
    outcome: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [decide()]
        except MlmtuneError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], MlmtuneError):
        raise outcome[0]
    return cast(T, outcome[0])


def precision_of(accelerator: Accelerator) -> str:
    """Return the precision of an accelerator as the config names it."""
    return "fp32" if accelerator.mixed_precision == "no" else str(accelerator.mixed_precision)
