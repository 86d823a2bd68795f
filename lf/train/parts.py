"""Find the layers of descriptors and of scores, and train only one of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lf.core import UsageError
from lf.models import Model

SIDE = 64  # px, smallest side of the image for finding the layers


def check(model: Model, name: str, method: str) -> None:
    """Raise UsageError unless the network has descriptors and a score for every pixel or cell of 8x8."""
    if "descriptor" not in model.heads or not {"score", "detector"} & {*model.heads}:
        raise UsageError(
            f"recipe: method {method} trains networks with the heads descriptor and score or detector; {name} has "
            f"{', '.join(model.heads)}; see: lf models"
        )


def maps_of(model: Model, outputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Name the outputs of a network by head, as float32 (B, C, h, w)."""
    return {head: output.float() for head, output in zip(model.heads, outputs, strict=True)}


def descriptors(network: nn.Module, model: Model, images: Tensor) -> Tensor:
    """Return raw descriptors (B, D, h, w) float32 of images (B, C, H, W); computes only their layers if possible."""
    describe = getattr(network, "describe", None)
    if describe is not None:
        found: Tensor = describe(images)
        return found.float()
    return maps_of(model, network(images))["descriptor"]


def split(network: nn.Module, model: Model) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that descriptors depend on, and all others."""
    every = list(network.parameters())
    for each in every:
        each.requires_grad_(True)
    side = -(-SIDE // model.multiple) * model.multiple
    image = torch.zeros(1, model.channels, side, side, device=every[0].device)
    training = {module: module.training for module in network.modules()}
    network.eval()
    made = maps_of(model, network(image))["descriptor"]
    gradients = torch.autograd.grad(made.sum(), every, allow_unused=True)
    for module, was in training.items():
        module.training = was
    used = [each for each, gradient in zip(every, gradients, strict=True) if gradient is not None]
    rest = [each for each, gradient in zip(every, gradients, strict=True) if gradient is None]
    return used, rest


def focus(network: nn.Module, trained: list[nn.Parameter], others_learn: bool) -> None:
    """Freeze all parameters except `trained`; norms without trained parameters keep their running statistics.

    Args:
        network: changed in place.
        trained: parameters of the network to train.
        others_learn: whether modules without parameters are in training mode.
    """
    chosen = {id(each) for each in trained}
    for each in network.parameters():
        each.requires_grad_(id(each) in chosen)
    for module in network.modules():
        own = [id(each) in chosen for each in module.parameters(recurse=False)]
        module.training = all(own) if own else others_learn
