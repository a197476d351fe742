import os
import signal

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from mlmtune.errors import ConfigError
from mlmtune.modeling import device
from mlmtune.modeling.device import build_accelerator, precision_of, resolve_precision

CPU, GPU, OTHER = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher's variables, and none of Accelerate's state from another test."""
    for name in ("ACCELERATE_MIXED_PRECISION", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    forget_accelerate()
    yield
    forget_accelerate()


def forget_accelerate():
    AcceleratorState._reset_state(True)
    PartialState._reset_state()


@pytest.fixture
def machine(monkeypatch):
    """Sets what the machine announces and what it then does."""

    def announce(*names, survives=True, gpu_has_bf16=False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))
        monkeypatch.setattr(device, "survives_bf16", lambda: survives)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_has_bf16
        )

    return announce


@pytest.mark.parametrize(
    ("names", "survives", "requested", "resolved"),
    [
        ((), True, "auto", "fp32"),
        (("avx2",), True, "auto", "fp32"),
        (("amx_bf16",), True, "auto", "bf16"),
        (("avx512_bf16",), True, "auto", "bf16"),
        (("bf16",), True, "auto", "bf16"),
        (("amx_bf16",), False, "auto", "fp32"),
        (("amx_bf16",), True, "fp32", "fp32"),
        ((), True, "bf16", "bf16"),
    ],
)
def test_precision_on_a_cpu(machine, names, survives, requested, resolved):
    machine(*names, survives=survives)
    assert resolve_precision(requested, CPU) == resolved


@pytest.mark.parametrize(
    ("has_bf16", "requested", "resolved"),
    [(True, "auto", "bf16"), (False, "auto", "fp32"), (False, "fp16", "fp16"),
     (True, "fp32", "fp32")],
)  # fmt: skip
def test_precision_on_a_gpu(machine, has_bf16, requested, resolved):
    machine(survives=False, gpu_has_bf16=has_bf16)
    assert resolve_precision(requested, GPU) == resolved


def test_precision_elsewhere_is_full(machine):
    machine("bf16", gpu_has_bf16=True)
    assert resolve_precision("auto", OTHER) == "fp32"


@pytest.mark.parametrize("launched", ["bf16", "no"])
def test_auto_is_what_the_launcher_was_told(machine, monkeypatch, launched):
    machine(*(["amx_bf16"] if launched == "no" else []))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert resolve_precision("auto", CPU) == "bf16"
    assert resolve_precision("fp32", CPU) == "fp32"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert resolve_precision("auto", GPU) == "fp16"


@pytest.mark.parametrize("launched", [False, True])
def test_fp16_without_a_gpu_is_refused(machine, monkeypatch, launched):
    machine()
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        resolve_precision("auto" if launched else "fp16", CPU)


@pytest.mark.parametrize("launched", [False, True])
def test_bf16_on_a_cpu_that_dies_of_it_is_refused(machine, monkeypatch, launched):
    machine("amx_bf16", survives=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ConfigError, match=r"bf16 crashes on this CPU .* fp32 or auto"):
        resolve_precision("auto" if launched else "bf16", CPU)


@pytest.mark.parametrize("fault", ["dies", "raises"])
def test_a_bf16_product_that_goes_wrong_is_tried_in_a_child(monkeypatch, fault):
    """The child ends there: neither its death nor its error is ours."""
    parent = os.getpid()

    def product(*_):
        if os.getpid() == parent:
            pytest.fail("it was computed in this process")
        if fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError

    monkeypatch.setattr(torch.nn.functional, "linear", product)
    assert device.survives_bf16.__wrapped__() is False
    assert os.getpid() == parent


def test_a_bf16_product_that_works_is_survived(monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *_: None)
    assert device.survives_bf16.__wrapped__() is True


@pytest.mark.parametrize(("requested", "mixed"), [("fp32", "no"), ("bf16", "bf16")])
def test_an_accelerator_computes_in_what_was_asked_for(machine, monkeypatch, requested, mixed):
    machine()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    accelerator = build_accelerator(requested)
    assert accelerator.mixed_precision == mixed
    assert precision_of(accelerator) == requested
    assert accelerator.num_processes == 1


def test_an_accelerator_leaves_accumulation_to_the_loop(machine, monkeypatch):
    machine()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert build_accelerator("fp32").gradient_accumulation_steps == 1


def test_processes_that_would_each_run_alone_are_told_how_to_join(machine, monkeypatch):
    machine()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"2 processes .* sees 1") as error:
        build_accelerator("fp32")
    command = "ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m mlmtune"
    assert command in str(error.value)


def test_a_gpu_is_told_to_compute_the_same_bits_each_time(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    fills = torch.utils.deterministic.fill_uninitialized_memory
    try:
        device.use_deterministic_kernels()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fills
