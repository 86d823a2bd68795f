"""Train R2D2 (arXiv 1906.06195): repeatable, reliable keypoints and their descriptors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.train import Recipe
from lf.train.losses import r2d2_losses, r2d2_sampler
from lf.train.pictures import Pictures
from lf.train.sample import Sample, pairs
from lf.train.views import flow_pairs, r2d2_views
from lf.train.views.r2d2_views import Pair
from lf.train.views.random_views import Dice

HARDNET_WINDOW = 38  # px, side of the window for the random points of `hardnet`


class Method:
    """R2D2's pairs and loss: reliability + repeatability + peakiness, each the mean over pairs.

    Settings:
        repeat_loss, patch_norm: see `r2d2_losses.repeatability`.
        window: N of the paper, px.
        reliability_loss: ap (the paper's) or hardnet.
        bins: number of bins of the soft histogram of the average precision.
        base: loss of an unreliable point: points with a higher AP become reliable.
        hardnet_counter: see `r2d2_losses.hardnet_reliability`.
        hardnet_points: number of points per pair from the 38 x 38 window; 0 takes all.
        source: `synthetic` (the images), `flow` (the folder `flow`), or `both`: pairs and images are equally likely.
        flow: folder of pairs with known flow, see `lf.train.views.flow_pairs`.
        shorter, tilt, noise, jitter, trials: see `r2d2_views.Changes`.

    Both reliability losses take negatives from all pairs of the batch that their process has.
    """

    extra: nn.Module | None = None
    images = 2  # per pair of the batch

    def __init__(self, recipe: Recipe, pictures: Pictures, device: torch.device) -> None:
        """Store the images, and find the pairs with flow if the recipe uses them.

        Raises:
            BadInput: there are no pairs with flow.
        """
        self.recipe, self.pictures, self.device = recipe, pictures, device
        self.set = recipe.settings
        jitter = self.set["jitter"]
        self.changes = r2d2_views.Changes(
            shorter=(self.set["shorter"][0], self.set["shorter"][1]),
            tilt=self.set["tilt"],
            noise=self.set["noise"],
            jitter=(jitter[0], jitter[1], jitter[2], jitter[3]),
            trials=self.set["trials"],
        )
        self.root = Path(self.set["flow"])
        self.flows = [] if self.set["source"] == "synthetic" else flow_pairs.find(self.root)

    def state(self) -> dict[str, Tensor]:
        """Return an empty state: only the network changes."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing: there is no state."""

    def begin_step(self, step: int, network: nn.Module) -> None:
        """Do nothing: steps need no preparation."""

    def loss(self, network: nn.Module, dice: Dice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of the pairs of this process, and its parts for the log."""
        pair = self.views(dice)
        dice.data_ready()
        images = torch.cat([pair.first, pair.second]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            outputs = network(images)
        descriptor, reliable, repeat = (x.float() for x in outputs)
        positive = F.softplus(repeat)
        parts = self.parts(descriptor, reliable.sigmoid(), positive / (1 + positive), pair.aflow, dice)
        return torch.stack([*parts.values()]).sum(), {name: part.detach() for name, part in parts.items()}

    def parts(
        self, descriptor: Tensor, reliability: Tensor, repeatability: Tensor, aflow: Tensor, dice: Dice
    ) -> dict[str, Tensor]:
        """Return the three losses of maps (2 * B, ...), first views before second views."""
        one, two = repeatability.chunk(2)
        window = self.set["window"]
        repeat = r2d2_losses.repeatability(one, two, aflow, self.set["repeat_loss"], self.set["patch_norm"], window)
        peaky = r2d2_losses.peaky(repeatability, window).mean()
        first, second = descriptor.chunk(2)
        trusted, trust = reliability.chunk(2)
        judge = {"ap": self._ap, "hardnet": self._hardnet}[self.set["reliability_loss"]]
        reliable = judge((first, second), (trusted, trust), aflow, dice)
        return {"reliability": reliable.mean(), "repeatability": repeat.mean(), "peaky": peaky}

    def views(self, dice: Dice) -> Pair:
        """Return the pairs of a step."""
        size = self.recipe.size
        drawn = r2d2_views.draw(dice, self.changes, size)
        drawn_from = {"synthetic": (len(self.pictures), 0), "flow": (0, len(self.flows))}
        squares, flows = drawn_from.get(self.set["source"], (len(self.pictures), len(self.flows)))
        index = dice.integers(squares + flows)
        parts = []
        if (index < squares).any():
            pictures = self.pictures.take(index.clamp(max=max(squares - 1, 0)))
            parts.append(r2d2_views.synthetic(pictures, drawn, size))
        for place in (index >= squares).nonzero()[:, 0].tolist():
            known = flow_pairs.read(self.root, self.flows[int(index[place]) - squares])
            row = r2d2_views.Draw(*(part[place : place + 1] for part in drawn))
            pair = flow_pairs.views_of(known, row, size, self.device)
            if not parts:
                parts.append(Pair(*(x.new_zeros(dice.pairs, *x.shape[1:]) for x in pair)))
            for whole, own in zip(parts[0], pair, strict=True):
                whole[place] = own[0]
        return parts[0]._replace(second=r2d2_views.spoil(parts[0].second, dice, self.changes))

    def sample(self, dice: Dice) -> list[Sample]:
        """Return the pairs of a step for display."""
        pair = self.views(dice)
        return pairs(torch.cat([pair.first, pair.second]), aflow=pair.aflow)

    def _ap(
        self, descriptors: tuple[Tensor, Tensor], reliability: tuple[Tensor, Tensor], aflow: Tensor, dice: Dice
    ) -> Tensor:
        height, width = self.recipe.size
        count, border = r2d2_sampler.queries(self.recipe.size), r2d2_sampler.BORDER
        inner = [dice.integers(max(1, side - 2 * border), count) + min(border, side // 2) for side in (width, height)]
        asked = torch.stack(inner, -1).to(self.device)
        far = torch.stack([dice.integers(width, count), dice.integers(height, count)], -1).to(self.device)
        ranked = r2d2_sampler.rank(descriptors, reliability, aflow, asked, far)
        precision = r2d2_losses.average_precision(ranked.positive, ranked.others, self.set["bins"])
        return r2d2_losses.ap_reliability(precision, ranked.reliability, ranked.known, self.set["base"])

    def _hardnet(
        self, descriptors: tuple[Tensor, Tensor], reliability: tuple[Tensor, Tensor], aflow: Tensor, dice: Dice
    ) -> Tensor:
        points = window_points(dice, self.recipe.size, self.set["hardnet_points"]).to(self.device)
        return r2d2_losses.hardnet_reliability(
            descriptors, reliability, aflow, points, self.set["base"], self.set["hardnet_counter"]
        )


def window_points(dice: Dice, size: tuple[int, int], count: int) -> Tensor:
    """Choose `count` different pixels, 0 for all, of a random window per pair: (B, N, 2) int64, x then y."""
    height, width = (min(HARDNET_WINDOW, s) for s in size)
    corner = torch.stack([dice.integers(size[1] - width + 1), dice.integers(size[0] - height + 1)], -1)
    place = dice.uniform(0, 1, height * width).argsort(1)[:, : count or None]
    return torch.stack([place % width, place // width], -1) + corner[:, None]
