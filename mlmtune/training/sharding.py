"""`training.shard_optimizer`: each process keeps AdamW's moments of some of the parameters.

It updates these parameters, and sends them to the other processes: stage 1 of ZeRO (Rajbhandari et
al. 2020, "ZeRO: Memory optimizations toward training trillion parameter models", 5.1). AdamW
updates each number by itself, so that the result has the same bits as without.

torch's ZeroRedundancyOptimizer does not take the names of parameters, by which checkpoints save
moments; keeps its moments where `optimizer.state` is not, so that clearing that does nothing; and
collects them in one process as pickles of a process's whole state on a device.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import distributed

Moments = dict[str, dict[str, torch.Tensor]]
"""AdamW's state by the name of the parameter; empty for one that has had no gradient so far."""


def assign(sizes: Sequence[int], num_processes: int) -> list[int]:
    """Return the process that keeps each parameter, so that all keep about as many numbers.

    The largest comes first, to the process with the fewest so far. A parameter is not divided.
    """
    loads, owners = [0] * num_processes, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += sizes[index]
    return owners


@dataclass(frozen=True)
class Shards:
    """The parameters whose moments each process keeps.

    Attributes:
        owners: The process of each parameter.
        process_index: This process.
    """

    owners: Mapping[torch.Tensor, int]
    process_index: int

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> Self:
        """Divide the parameters of an optimizer over all processes."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        owners = assign([p.numel() for p in parameters], accelerator.num_processes)
        return cls(dict(zip(parameters, owners, strict=True)), accelerator.process_index)

    def keeps(self, parameter: torch.Tensor) -> bool:
        """Whether this process keeps the moments of a parameter."""
        return self.owners[parameter] == self.process_index

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Let an optimizer update this process's parameters alone, and exchange all of them."""
        others = {p: p.grad for p in self.owners if not self.keeps(p)}
        for parameter in others:
            parameter.grad = None  # AdamW leaves out what has no gradient
        yield
        for parameter, gradient in others.items():
            parameter.grad = gradient
        sent = [
            distributed.broadcast(parameter.detach(), src=owner, async_op=True)
            for parameter, owner in self.owners.items()
        ]
        for work in sent:
            work.wait()

    def gather(self, moments: Moments) -> Moments:
        """Return the moments of all processes in the main process, in host memory.

        One tensor at a time is on its device beside its own; the other processes get nothing.
        """
        mine = [
            (self.process_index, name, key, value.shape, value.dtype, value.device.type)
            for name, fields in moments.items()
            for key, value in fields.items()
        ]
        whole: Moments = {name: {} for name in moments}
        for owner, name, key, shape, dtype, device in gather_object(mine):
            if owner == self.process_index:
                tensor = moments[name][key].contiguous()
            else:
                tensor = torch.empty(shape, dtype=dtype, device=device)
            # Not sent to the main process alone: NCCL would allocate buffers for each pair.
            distributed.broadcast(tensor, src=owner)
            if self.process_index == 0:
                whole[name][key] = tensor.cpu()
        return whole
