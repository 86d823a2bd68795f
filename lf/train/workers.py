"""Processes of one training run: one, or several under torchrun that share each batch.

Gradients are averaged by one all-reduce after the backward pass. DistributedDataParallel is not used: it supports a
single forward pass of a single module, while a method may call its network several times, leave out a head, or train a
second network (`Method.extra`). The networks here are small, so little is lost.
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

PATIENCE = timedelta(days=1)  # other processes wait while the first collects images or validates


def rank() -> int:
    """Return the rank of this process under torchrun; 0 is the first or only process."""
    return int(os.environ.get("RANK", "0"))


def find_device(name: str) -> torch.device:
    """Return the device with the name `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: unknown name.
        Unavailable: the device is missing.
    """
    found = "cuda" if torch.cuda.is_available() else "cpu"
    name = pick({"auto": found, "cpu": "cpu", "cuda": "cuda"}, name, "device")
    if name == "cuda" and not torch.cuda.is_available():
        raise Unavailable(
            "device cuda was requested, but this torch finds no GPU; type: `device=cpu`, or see: `doctor()`"
        )
    return torch.device(name)


class Workers:
    """This process, and its share of the work of the run.

    Attributes:
        device: where this process computes.
        own: slice of the batch's pairs that this process computes.
        first: whether this is the first process, which writes files.
    """

    def __init__(self, device: torch.device, batch: int) -> None:
        """Join the others if torchrun started this process.

        Raises:
            UsageError: the batch is not a multiple of the number of processes.
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
        """Return the network; on several GPUs, with batch norms that use the pairs of all processes."""
        if self.count == 1 or self.device.type != "cuda":
            return network
        convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm  # it has no stubs
        converted: nn.Module = convert(network)
        return converted

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients over the processes. Parameters without a gradient get zeros, also in one process."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.count > 1:
            self._average([cast(Tensor, parameter.grad) for parameter in parameters])

    def average_statistics(self, network: nn.Module) -> None:
        """Average the running statistics of batch norms; on GPUs they are equal already, see `prepare`."""
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
        """Return whether `fine` is true in all processes."""
        if self.count == 1:
            return fine
        count = torch.tensor(int(fine), device=self.device)
        distributed.all_reduce(count)
        return cast(int, count.item()) == self.count

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()
