"""Stage 1 of PoSFeat (arXiv 2203.12993): train descriptors from camera poses; score layers are frozen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lf.models import MODELS
from lf.train import Recipe, parts, posed_pairs
from lf.train.losses import epipolar_losses
from lf.train.posed_pairs import PosedPairs
from lf.train.sample import Sample, single
from lf.train.views import colour, random_views
from lf.train.views.random_views import Dice


class Method:
    """Descriptors from camera poses: the loss is the mean weighted distance of matches to their epipolar lines.

    Settings:
        cell: px; one point is drawn at random in every square of this side.
        line_steps: number of points on a line that are compared.
        search_window: half the side of the window around the most similar point, as a share of half the view's side.
        anchor_noise: largest random shift of the window, as a share of half the view's side.
        temperature: similarities are multiplied by it.
        mask: expected matches farther from their line than this share of the shorter side do not count.
        jitter: brightness, contrast, saturation and hue of each view, see `lf.train.views.colour.jitter`.
        light: strength of changes of light, blur and noise, see `random_views.photometric`; 0 for none.
        max_turn, most_pairs: see `lf.train.posed_pairs.collect`.
    """

    any_network = True  # trains the network of `init`
    collect = staticmethod(posed_pairs.collect)
    extra: nn.Module | None = None
    images = 2  # per pair of the batch

    def __init__(self, recipe: Recipe, pictures: PosedPairs, device: torch.device) -> None:
        """Store the pairs and the settings of the search.

        Raises:
            UsageError: the network has no descriptors or no score map.
        """
        self.recipe, self.pairs, self.device = recipe, pictures, device
        self.model = MODELS[recipe.model]
        parts.check(self.model, recipe.model, recipe.method)
        self.search = epipolar_losses.Search(
            size=recipe.size,
            corners=self.model.family == "posfeat",
            steps=recipe.settings["line_steps"],
            window=recipe.settings["search_window"],
            noise=recipe.settings["anchor_noise"],
            temperature=recipe.settings["temperature"],
            mask=recipe.settings["mask"],
        )

    def state(self) -> dict[str, Tensor]:
        """Return an empty state: only the network changes."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing: there is no state."""

    def begin_step(self, step: int, network: nn.Module) -> None:
        """Do nothing: steps need no preparation."""

    def trained(self, network: nn.Module) -> list[nn.Parameter]:
        """Return the parameters that descriptors depend on, and freeze all others."""
        used, _ = parts.split(network, self.model)
        parts.focus(network, used, others_learn=True)
        return used

    def loss(self, network: nn.Module, dice: Dice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of the pairs of this process, and numbers for the log."""
        views, there, back = views_of(self.pairs, self.recipe, dice)
        dice.data_ready()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            maps = parts.descriptors(network, self.model, views.contiguous(memory_format=torch.channels_last))
        first, second = maps.float().chunk(2)
        found = [self._match(one, two, way, dice) for one, two, way in ((first, second, there), (second, first, back))]
        loss = torch.stack([epipolar_losses.description(each, self.search) for each in found]).sum()
        kept = torch.cat([epipolar_losses.weights(each, self.search) > 0 for each in found]).float().mean()
        valid = torch.cat([each.distance[each.valid] for each in found])
        middle = valid.median() if len(valid) else loss * 0
        return loss, {"loss": loss.detach(), "kept": kept.detach(), "distance": middle.detach()}

    def sample(self, dice: Dice) -> list[Sample]:
        """Return the first views of a step, with the points to match."""
        views, _, _ = views_of(self.pairs, self.recipe, dice)
        points = self._queries(dice)
        return single(views[: len(points)], torch.cat([points, torch.ones_like(points[..., :1])], 2))

    def _queries(self, dice: Dice) -> Tensor:
        cell, size = self.recipe.settings["cell"], self.recipe.size
        random = dice.rand((size[0] // cell) * (size[1] // cell), 2)
        return epipolar_losses.queries(random, size, cell)

    def _match(self, one: Tensor, two: Tensor, way: Tensor, dice: Dice) -> epipolar_losses.Found:
        points = self._queries(dice)
        random = dice.rand(points.shape[1], 2) * 2 - 1
        return epipolar_losses.match(one, two, points, way, self.search, random)


def views_of(pairs: PosedPairs, recipe: Recipe, dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
    """Return the views of a step (2 B, C, H, W), each with its own change of colours, and F (B, 3, 3) both ways."""
    views, there, back = pairs.draw(dice)
    changed = []
    for view in views.chunk(2):
        ranges = recipe.settings["jitter"]
        if any(ranges):
            view = colour.jitter(view, dice.uniform(-1, 1, 4), (ranges[0], ranges[1], ranges[2], ranges[3]))
        if recipe.settings["light"]:
            view = random_views.photometric(view, dice, recipe.settings["light"])
        changed.append(view)
    return torch.cat(changed), there, back
