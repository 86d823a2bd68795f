"""Processes of one training run: one, or several under torchrun that share each batch.

Ours, with one all-reduce after the backward pass: DistributedDataParallel averages in hooks of a single forward pass of
a single module, while a method may call its network several times, leave a head out, or train a network beside it
(`Method.extra`). The networks here are small enough that nothing is lost by it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from lf.core import Unavailable, UsageError, pick

PATIENCE = timedelta(days=1)  # the others wait while the first one collects pictures or validates


def rank() -> int:
    """The number of this process among those that torchrun started; 0 is the first, or the only one."""
    return int(os.environ.get("RANK", "0"))


def find_device(name: str) -> torch.device:
    """Where to compute: `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: another name.
        Unavailable: the device is not there.
    """
    found = "cuda" if torch.cuda.is_available() else "cpu"
    name = pick({"auto": found, "cpu": "cpu", "cuda": "cuda"}, name, "device")
    if name == "cuda" and not torch.cuda.is_available():
        raise Unavailable(
            "device cuda was requested, but this torch finds no GPU; type: `device=cpu`, or see: `doctor()`"
        )
    return torch.device(name)


class Workers:
    """This process among those of the run.

    Attributes:
        device: where this process computes.
        own: which pairs of the batch are its own.
        first: whether it is the one that writes.
    """

    def __init__(self, device: torch.device, batch: int) -> None:
        """Join the others if torchrun started this process.

        Raises:
            UsageError: the batch cannot be shared out evenly.
        """
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = rank()
        if batch % self.count:
            raise UsageError(f"recipe: batch={batch} cannot be shared by {self.count} processes; use a multiple of it")
        share = batch // self.count
        self.own = slice(self.rank * share, (self.rank + 1) * share)
        self.first = self.rank == 0
        self.device = device
        if self.count > 1:
            if device.type == "cuda":
                self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
                torch.cuda.set_device(self.device)
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.count > 1:
            distributed.destroy_process_group()

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network, or on several GPUs the same with batch norms that see the pairs of all processes."""
        if self.count == 1 or self.device.type != "cuda":
            return network
        convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm  # it has no stubs
        converted: nn.Module = convert(network)
        return converted

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients over the processes; what a loss leaves out has the gradient zero, alone as together."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.count > 1:
            self._average([cast(Tensor, parameter.grad) for parameter in parameters])

    def average_statistics(self, network: nn.Module) -> None:
        """Average what batch norms remember; on GPUs they are the same already, see `prepare`."""
        remembered = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        if self.count > 1 and self.device.type != "cuda" and remembered:
            self._average(remembered)

    def _average(self, tensors: Sequence[Tensor]) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        parts = torch.split(flat / self.count, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def agree(self, fine: bool) -> bool:
        """Whether all processes are fine."""
        if self.count == 1:
            return fine
        count = torch.tensor(int(fine), device=self.device)
        distributed.all_reduce(count)
        return cast(int, count.item()) == self.count

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()
