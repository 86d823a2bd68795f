"""Train KP2D and KP2Dtiny (arXiv 1912.10615) from pairs of views, without labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lf.core import UsageError
from lf.models import MODELS
from lf.train import Recipe
from lf.train.losses import correspondence, kp2d_losses
from lf.train.losses.inlier_net import InlierNet
from lf.train.losses.kp2d_losses import Match, Points
from lf.train.pictures import Pictures
from lf.train.sample import Sample, pairs
from lf.train.views import kp2d_views
from lf.train.views.random_views import Dice

DISTINCT = 8.0  # px: two points nearer than this are not each other's negatives in the dual softmax


@dataclass(frozen=True)
class Settings:
    """The settings of a recipe.

    The published versions: v0 has no `io`, its network does not upsample, and points stay in their cells. In v1 points
    may leave their cells, v2 upsamples, v3 adds `io` and removes `descriptor`, v4 has all.

    Attributes:
        io: train IO-Net beside the network.
        descriptor: use a descriptor loss.
        descriptor_weight: weight of the descriptor loss; location, IO and score losses have weight 1.
        descriptor_loss: `triplet` (published, counted twice) or `dual-softmax`.
        points: number of random correspondences per pair in the descriptor loss; 0 takes all.
        temperature: temperature of the dual softmax.
        io_points: number of matches per pair that IO-Net classifies.
        io_lowest: take the cells with the lowest scores, as the published code does by mistake.
        patch_ratio: share of the side of the target that the source shows.
        scaling: amplitude of the change of scale.
        perspective: amplitude of the perspective distortion.
        max_angle: largest rotation, degrees.
        jitter: ranges of brightness, contrast, saturation, hue.
    """

    io: bool
    descriptor: bool
    descriptor_weight: float
    descriptor_loss: str
    points: int
    temperature: float
    io_points: int
    io_lowest: bool
    patch_ratio: float
    scaling: float
    perspective: float
    max_angle: float
    jitter: tuple[float, float, float, float]


class Method:
    """KP2D's pairs of views and losses.

    The two views of all pairs go through the network as one batch. The published code has one batch of targets and one
    of sources. The difference affects only the statistics of batch normalisation.
    """

    extra: nn.Module | None = None
    images = 2  # per pair of the batch

    def __init__(self, recipe: Recipe, pictures: Pictures, device: torch.device) -> None:
        """Create IO-Net if the recipe uses it.

        Raises:
            UsageError: the model has other heads.
        """
        row = MODELS[recipe.model]
        heads = tuple(row.heads)
        if heads != ("score", "shift", "feat"):
            raise UsageError(
                f"recipe: method kp2d trains networks with the heads score, shift and feat; {recipe.model} has "
                f"{', '.join(heads)}; see: lf models"
            )
        self.recipe, self.pictures, self.device = recipe, pictures, device
        self.settings = Settings(**recipe.settings)
        self.rules = row.settings["cross"], getattr(row.decode, "keywords", {})["align_corners"]  # as lf decodes
        if self.settings.io:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.seed)
                self.extra = InlierNet().to(device)

    def state(self) -> dict[str, Tensor]:
        """Return an empty state: IO-Net is in `extra`."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing: there is no state."""

    def begin_step(self, step: int, network: nn.Module) -> None:
        """Do nothing: steps need no preparation."""

    def loss(self, network: nn.Module, dice: Dice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of the pairs, and its parts for the log."""
        images, homography = self.pair(dice)
        dice.data_ready()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            heads = network(images.contiguous(memory_format=torch.channels_last))
        target, source = (
            kp2d_losses.decode(score, shift, feat, self.recipe.size, *self.rules)
            for score, shift, feat in zip(*(head.float().chunk(2) for head in heads), strict=True)
        )
        return self.judge(source, target, homography, dice)

    def pair(self, dice: Dice) -> tuple[Tensor, Tensor]:
        """Return views (2 B, 3, H, W), targets before sources, and homographies (B, 3, 3) from source to target."""
        settings = self.settings
        spread = (settings.patch_ratio, settings.scaling, settings.perspective, settings.max_angle)
        pictures = self.pictures.take(dice.integers(len(self.pictures)))
        both, homography = kp2d_views.pair(pictures, dice, self.recipe.size, spread)
        return kp2d_views.augment(both, dice, settings.jitter), homography

    def sample(self, dice: Dice) -> list[Sample]:
        """Return the pairs of a step for display."""
        images, homography = self.pair(dice)
        return pairs(images, homography=homography.inverse())

    def judge(self, source: Points, target: Points, homography: Tensor, dice: Dice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of all losses, mean over the pairs, and its parts."""
        settings = self.settings
        match = kp2d_losses.associate(source, target, homography)
        terms = {
            "location": kp2d_losses.location(match),
            "usp": kp2d_losses.usp(source, target, match),
            "consistency": kp2d_losses.consistency(source, target, match),
        }
        if settings.descriptor:
            terms["descriptor"] = settings.descriptor_weight * self._descriptor(source, target, match, dice)
        if self.extra is not None:
            terms["io"] = kp2d_losses.inlier(
                self.extra, source, target, homography, settings.io_points, settings.io_lowest, self.recipe.batch
            )
        parts = {name: term.detach().mean() for name, term in terms.items()}
        return torch.stack(list(terms.values())).sum(0).mean(), {**parts, "valid": match.valid.float().mean()}

    def _descriptor(self, source: Points, target: Points, match: Match, dice: Dice) -> Tensor:
        """Return the descriptor loss (B,)."""
        settings = self.settings
        index = correspondence.choose(match.inside, dice.rand(len(match.cells)), settings.points)
        valid = match.inside.gather(1, index)
        at = source.at[:, match.cells].gather(1, index[..., None].expand(-1, -1, 2)).detach()
        warped = kp2d_losses.gather(match.warped, index).detach()
        one, two = source.describe(at), target.describe(warped)
        if settings.descriptor_loss == "triplet":
            return 2 * kp2d_losses.triplet(one, two, warped, valid)
        return correspondence.dual_softmax(one, two, (at, warped), valid, DISTINCT, settings.temperature)[0]
