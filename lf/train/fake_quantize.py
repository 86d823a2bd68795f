"""Simulated quantization for training (arXiv 1712.05877).

A value is rounded to the grid that the file will have and stays a float. What is rounded, and where, is what
`lf quantize` writes for ONNX Runtime: the weights of a convolution per output channel on a symmetric grid; what a
convolution, ReLU or max pooling reads and writes as uint8, one range for each tensor. What only a ReLU reads is not
rounded before it, and the last convolutions of fragile heads stay float.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import fusion, parametrize

from lf.models import Model
from lf.train.quantizers import Activations, Bias, Folded, Weights

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def prepare(
    network: nn.Module, model: Model, weight_bits: int, activation_bits: int, pictures: Iterable[Tensor]
) -> nn.Module:
    """Return a copy of the graph of `network` that computes as its quantized file will.

    Batch norms are folded and dropout is removed: both would move the ranges from step to step. Names and shapes of
    the network's own tensors stay; `plain` gives their values.

    Args:
        network: float; its modules are taken over and changed.
        model: its row, which names the heads that stay float.
        weight_bits: 3, 4 or 8.
        activation_bits: 8, or 0 to leave activations float.
        pictures: batches (B, C, H, W) in [0, 1] over whose extremes the ranges begin.
    """
    traced = fx.symbolic_trace(network.eval())
    _simplify(traced)
    convolutions = _integer(traced, model)
    for node in convolutions:
        conv = traced.get_submodule(str(node.target))
        assert isinstance(conv.weight, Tensor)
        parametrize.register_parametrization(conv, "weight", Weights(conv.weight, weight_bits))
    if activation_bits:
        device = next(network.parameters()).device
        for index, (tensor, places) in enumerate(_places(traced, convolutions).items()):
            activations = Activations(places).to(device)
            traced.add_submodule(f"activations{index}", activations)
            with traced.graph.inserting_after(tensor):
                rounded = traced.graph.call_module(f"activations{index}", ())
            tensor.replace_all_uses_with(rounded)
            rounded.args = (tensor,)
            for node in convolutions:
                if f"{node.target}.input" in places:
                    _round_bias(traced, node, activations)
    traced.graph.lint()
    traced.recompile()
    if activation_bits:
        with torch.no_grad():
            for batch in pictures:
                traced(batch)
        for module in _activations(traced):
            module.observing = False
    return traced.train()


def plain(network: nn.Module, own: Iterable[str]) -> dict[str, Tensor]:
    """Return the network's `own` tensors by name, with weights rounded to their grid."""
    return {name: operator.attrgetter(name)(network).detach() for name in own}


def ranges(network: nn.Module) -> dict[str, list[float]]:
    """Return the learned ranges: place -> [low, high]."""
    found = {}
    for module in _activations(network):
        low, high = (float(end.detach()) for end in module.range())
        found.update({place: [low, high] for place in module.places})
    return dict(sorted(found.items()))


def _activations(network: nn.Module) -> Iterator[Activations]:
    return (module for module in network.modules() if isinstance(module, Activations))


def _simplify(traced: fx.GraphModule) -> None:
    """Fold batch norms into the convolutions before them, and remove dropout."""
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        module = _module(traced, node)
        if isinstance(module, nn.Dropout2d):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
        elif isinstance(module, NORMS) and len(node.args[0].users) == 1:
            conv = _module(traced, node.args[0])
            if not isinstance(conv, nn.Conv2d):
                continue
            of: Any = module
            weight, bias = fusion.fuse_conv_bn_weights(
                conv.weight, conv.bias, of.running_mean, of.running_var, of.eps, of.weight, of.bias
            )
            conv.weight = weight
            left = bias if conv.bias is None else None
            if left is None:
                conv.bias = bias
            above, _, name = str(node.target).rpartition(".")
            setattr(modules[above], name, Folded(module, left))


def _integer(traced: fx.GraphModule, model: Model) -> list[fx.Node]:
    """Return the convolutions that will run in integers: all but the last ones of the heads that stay float."""
    heads = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    floats = set[fx.Node]()
    for name, head in zip(model.heads, heads, strict=True):
        queue = deque([head] if name in model.keep_float else [])
        while queue:
            node = queue.popleft()
            if isinstance(_module(traced, node), nn.Conv2d):
                floats.add(node)
            else:
                queue.extend(node.all_input_nodes)
    return [n for n in traced.graph.nodes if isinstance(_module(traced, n), nn.Conv2d) and n not in floats]


def _places(traced: fx.GraphModule, convolutions: Iterable[fx.Node]) -> Mapping[fx.Node, list[str]]:
    """Map each tensor to quantize to its places: `CONVOLUTION.input` where it is read, `.output` where written."""
    found: dict[fx.Node, list[str]] = {}
    for node in convolutions:
        written = node
        while len(written.users) == 1 and _joins(traced, next(iter(written.users))):
            written = next(iter(written.users))
        found[written] = [f"{node.target}.output"]
    for node in convolutions:
        read = node.all_input_nodes[0]
        if isinstance(_module(traced, read), nn.MaxPool2d) and read.all_input_nodes[0] in found:
            read = read.all_input_nodes[0]  # max pooling keeps quantized values on their levels
        found.setdefault(read, []).append(f"{node.target}.input")
    return found


def _round_bias(traced: fx.GraphModule, node: fx.Node, reads: Activations) -> None:
    """Round the bias of a convolution, and the bias that remains of its batch norm."""
    conv = traced.get_submodule(str(node.target))
    after = [_module(traced, user) for user in node.users]
    for module in (conv, *(m for m in after if isinstance(m, Folded) and m.adds)):
        if module.bias is not None:
            parametrize.register_parametrization(module, "bias", Bias(conv, reads))


def _joins(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node is fused into the convolution before it: ReLU or a folded batch norm."""
    return isinstance(_module(traced, node), Folded | nn.ReLU) or node.target is F.relu


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None
