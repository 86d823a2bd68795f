"""Inputs and outputs of a TFLite file: layout, 8-bit numbers, and the head of each tensor.

Every tensor has its own scale and zero point, and heads are known by the name of their tensor, never by their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lf.core import Array, Artifact, BadInput, Card
from lf.runtimes.float_heads import HostHead, host_heads

# TensorType -> numpy type of inputs and outputs, and its limits
TYPES: dict[int, tuple[Any, int, int]] = {0: (np.float32, 0, 0), 3: (np.uint8, 0, 255), 9: (np.int8, -128, 127)}


class Port:
    """One input or output: float32 (1, C, H, W) outside the session; (1, H, W, C) of its own type inside."""

    def __init__(self, where: str, index: int, tensor: Any) -> None:
        """Store a `TensorT` and its index in the graph.

        Raises:
            BadInput: an unsupported type, or 8 bits without a single scale and zero point.
        """
        self.name, self.index = tensor.name.decode(), int(index)
        self.shape = tuple(tensor.shape.tolist())
        if tensor.type not in TYPES:
            raise BadInput(f"{where}: tensor {self.name} has type {tensor.type}; expected int8, uint8 or float32")
        self._dtype, self._least, self._most = TYPES[tensor.type]
        self._floats, self._scale, self._zero = self._dtype == np.float32, np.float32(1), 0
        if not self._floats:
            rule = tensor.quantization
            parts = (None, None) if rule is None else (rule.scale, rule.zeroPoint)
            scales, zeros = ([] if part is None else part for part in parts)
            if not (len(scales) == len(zeros) == 1 and scales[0] > 0 and self._least <= zeros[0] <= self._most):
                raise BadInput(
                    f"{where}: tensor {self.name} is {np.dtype(self._dtype)} without one scale and zero point"
                )
            self._scale, self._zero = np.float32(scales[0]), int(zeros[0])

    def encode(self, image: Array) -> Array:
        """Convert (1, C, H, W) float32 to (1, H, W, C): round half to even, then clip, as the kernels do."""
        rows = np.moveaxis(image, 1, 3)
        if self._floats:
            return np.ascontiguousarray(rows)
        levels = np.rint(rows / self._scale) + self._zero
        return np.ascontiguousarray(np.clip(levels, self._least, self._most, out=levels).astype(self._dtype))

    def decode(self, value: Array) -> Array:
        """Convert (1, h, w, C) to (1, C, h, w) float32."""
        planes = np.ascontiguousarray(np.moveaxis(value, 3, 1))
        return planes if self._floats else (planes.astype(np.float32) - self._zero) * self._scale


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a file, checked against its card.

    Attributes:
        image: the only input.
        outputs: the tensors of heads, and those from which the host computes heads.
        host: heads that the host computes.
    """

    image: Port
    outputs: list[Port]
    host: tuple[HostHead, ...]


def signature(artifact: Artifact, model: Any) -> Signature:
    """Check the tensors of a file, loaded by `load`, against its card.

    Raises:
        BadInput: they do not match its card.
    """
    where, card, graph = str(artifact.path), artifact.card, model.subgraphs[0]
    image = _the_input(where, _ports(where, graph, graph.inputs), card)
    host = host_heads(card, where)
    outputs = _by_name(where, _ports(where, graph, graph.outputs), card, image.shape, host)
    return Signature(image, outputs, host)


def _ports(where: str, graph: Any, indices: Array) -> list[Port]:
    return [Port(where, index, graph.tensors[index]) for index in indices.tolist()]


def _the_input(where: str, inputs: list[Port], card: Card) -> Port:
    channels, height, width = card.input
    wanted = (1, height, width, channels)
    if len(inputs) != 1 or inputs[0].shape != wanted:
        found = ", ".join(f"{port.name} {port.shape}" for port in inputs)
        raise BadInput(f"{where}: has the inputs {found}; its card says one, {wanted}; make the file again")
    return inputs[0]


def _by_name(
    where: str, outputs: list[Port], card: Card, image: tuple[int, ...], host: tuple[HostHead, ...]
) -> list[Port]:
    """Find the tensors of heads, and those from which the host computes heads.

    Raises:
        BadInput: a tensor is missing or has a wrong shape; the text lists the existing ones.
    """
    named, computed = {port.name: port for port in outputs}, {head.name: head for head in host}
    there = ", ".join(f"{port.name} {port.shape}" for port in outputs) or "none"
    for head, (channels, stride) in card.outputs.items():
        shape = (1, image[1] // max(1, stride), image[2] // max(1, stride), channels)
        step = computed.get(head)
        source = step.source if step else head
        if source not in named:
            raise BadInput(f"{where}: has no tensor {source} for head {head}; its outputs: {there}")
        found = named[source].shape
        wanted = (*shape[:3], step.inputs) if step else shape
        if found != wanted or (step and step.outputs != channels):
            raise BadInput(f"{where}: tensor {source} is {found}, head {head} needs {wanted}; its outputs: {there}")
    used = {head.source for head in host} | {head for head in card.outputs if head not in computed}
    return [named[name] for name in named if name in used]
