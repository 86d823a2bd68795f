"""Quantization-aware self-distillation: the float network teaches a quantized copy.

Distillation (arXiv 1503.02531) needs no labels, so this serves every network that there are weights for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lf.core import UsageError
from lf.models import MODELS, checkpoint
from lf.models.resolve import resolve
from lf.train import Recipe
from lf.train.losses import map_losses
from lf.train.losses.map_losses import LOSSES, POINTS
from lf.train.pictures import Pictures
from lf.train.sample import Sample, single
from lf.train.views import random_views
from lf.train.views.random_views import PLACE, Dice


class Method:
    """Distillation of maps: the loss is the sum over heads of the distance from the teacher's maps, on random views.

    Settings:
        descriptor_weight: weight of the descriptor loss in the sum.
    """

    any_network = True  # trains the network of `init`
    extra: nn.Module | None = None
    images = 1

    def __init__(self, recipe: Recipe, pictures: Pictures, device: torch.device) -> None:
        """Load the teacher.

        Raises:
            UsageError: the recipe has no teacher or no quantization, or the network has a head without a loss here.
            BadInput: see `lf.models.checkpoint.load`.
        """
        if not recipe.init:
            raise UsageError("recipe: init= names no teacher; type: `init=CHECKPOINT`")
        if not recipe.weight_bits:
            raise UsageError("recipe: weight_bits=0 leaves the network what it is; type: `weight_bits=4`")
        self.recipe, self.pictures, self.device = recipe, pictures, device
        self.heads = tuple(MODELS[recipe.model].heads)
        if not LOSSES.keys() >= set(self.heads) or not any(set(self.heads) >= set(each) for each in POINTS):
            raise UsageError(
                f"recipe: method distil trains networks with heads among {', '.join(LOSSES)}, which must hold "
                f"{', or '.join(' and '.join(each) for each in POINTS)}; {recipe.model} has {', '.join(self.heads)}; "
                "see: lf models"
            )
        self.teacher = checkpoint.network(resolve(recipe.init)).to(device)

    def state(self) -> dict[str, Tensor]:
        """Return an empty state: only the network changes."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing: there is no state."""

    def begin_step(self, step: int, network: nn.Module) -> None:
        """Do nothing: steps need no preparation."""

    def loss(self, network: nn.Module, dice: Dice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of the images of this process, and its parts for the log."""
        batch = self._views(dice).contiguous(memory_format=torch.channels_last)
        dice.data_ready()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            with torch.no_grad():
                taught = self._maps(self.teacher(batch))
            learned = self._maps(network(batch))
        return map_losses.total(learned, taught, self.recipe.settings["descriptor_weight"])

    def sample(self, dice: Dice) -> list[Sample]:
        """Return the views of a step for display."""
        return single(self._views(dice), torch.zeros(dice.pairs, 0, 3))

    def _maps(self, outputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {head: output.float() for head, output in zip(self.heads, outputs, strict=True)}

    def _views(self, dice: Dice) -> Tensor:
        """Return one random view of every image of a step: (B, C, H, W) in [0, 1]."""
        size, side = self.recipe.size, self.recipe.picture_size
        pictures = self.pictures.take(dice.integers(len(self.pictures)))
        view, _ = random_views.render(pictures, random_views.sample(dice, size, (side, side), PLACE), size)
        return random_views.photometric(view, dice)
