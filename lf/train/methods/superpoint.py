"""Train both heads of SuperPoint on pairs of views of labelled images.

Detector: the 65 classes of a cell (arXiv 1712.07629, section 3). `lf.train.label_sources` says where labels come from.
Descriptor: one of several losses, over points or over cells that both views see.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.models import MODELS
from lf.models.decode import CELL
from lf.models.superpoint.decode import describe_superpoint
from lf.train import Recipe
from lf.train.label_sources import adapt, first_labels
from lf.train.losses import correspondence
from lf.train.losses.descriptor_losses import DESCRIPTOR_LOSSES, Pair
from lf.train.losses.detector_losses import DETECTOR_LOSSES, choose, labels, valid_cells
from lf.train.pictures import Pictures
from lf.train.sample import Sample, pairs
from lf.train.views import random_views, superpoint_views
from lf.train.views.random_views import PLACE, RELATION, Dice

SHAKE = 0.7  # px: at run time the partner is detected about a pixel from the true place
MISLED = 0.3  # weight of a label if its descriptor did not find its partner
WARP = superpoint_views.WARPS["joint"]
PHOTOMETRY = superpoint_views.PHOTOMETRIES["joint"]


class Views(NamedTuple):
    """The pairs of a step; first views come before second views.

    Attributes:
        batch: (2 B, C, H, W) in [0, 1].
        seen: (2 B, H, W) bool, pixels inside the image.
        points: labels of the first and of the second views, (B, N, 3) x, y, score each; score 0 does not count.
        relation: (B, 3, 3) from pixels of the second view to pixels of the first.
        chosen: (B,) indices of the images of the pairs.
        places: (B, 3, 3) each, from pixels of the first views and of the second views to pixels of their squares.
    """

    batch: Tensor
    seen: Tensor
    points: list[Tensor]
    relation: Tensor
    chosen: Tensor
    places: tuple[Tensor, Tensor]


class Method:
    """SuperPoint's pairs of views, labels and loss. Settings:

    labels: `corners`, or a folder made by `lf label`.
    relabel: shares of the run after which the network labels the images again, from `adaptations` views of each.
    view_pairs: `published`: the first view is the image itself; `wide`: larger changes of scale, tilt and light.
    detector_loss: a row of DETECTOR_LOSSES.
    corner_labels: `soft` spreads a point over the pixels round it and fills its cell; `drawn` picks one pixel per cell,
        as the paper does; `trusted` takes the strongest point of a cell, with a lower weight if its descriptor did not
        find its partner, so that the score means "repeatable and matchable".
    descriptor_loss: `dual-softmax` over `points` labelled points per pair, at `temperature`; or a row of
        DESCRIPTOR_LOSSES over the cells: `sparse` with `points` matches and `negatives` for each, or `dense`.
    descriptor_weight: weight of the descriptor loss in the sum.
    """

    extra: nn.Module | None = None
    images = 2  # per pair of the batch

    def __init__(self, recipe: Recipe, pictures: Pictures, device: torch.device) -> None:
        """Label the images."""
        self.recipe = recipe
        self.device = device
        self.pictures = pictures
        self.square = (recipe.picture_size, recipe.picture_size)
        self.centres = MODELS[recipe.model].describe is not describe_superpoint
        self.labels = self._first_labels().to(device)

    def _first_labels(self) -> Tensor:
        """Return the first labels of the images (N, LABELS, 3)."""
        return first_labels(self.recipe, self.pictures)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that `restore` needs in addition to the network."""
        return {"labels": self.labels}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the tensors that `state` returned."""
        self.labels = state["labels"]

    def begin_step(self, step: int, network: nn.Module) -> None:
        """Label the images again if the recipe does so at this step."""
        if step in {round(share * self.recipe.steps) for share in self.recipe.settings["relabel"]}:
            self.labels = adapt(self.recipe, self.pictures, network, self.device).to(self.device)

    def loss(self, network: nn.Module, dice: Dice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of the pairs, and its parts for the log."""
        views = self._views(dice)
        dice.data_ready()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            detector, descriptor = network(views.batch.contiguous(memory_format=torch.channels_last))
        return self._keypoint_loss(detector, descriptor, views, dice)

    def _keypoint_loss(
        self, detector: Tensor, descriptor: Tensor, views: Views, dice: Dice
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts, see `loss`. Maps of first views come before maps of second views."""
        settings = self.recipe.settings
        _, seen, points, relation, *_ = views
        valid = valid_cells(seen)
        parts = {}
        found = torch.ones_like(points[0][..., 2])
        if settings["descriptor_loss"] == "dual-softmax":
            matching, found, parts["matched"] = self._match(descriptor.float(), points, dice)
        else:
            first, second = descriptor.float().chunk(2)
            shown, shown_second = valid.chunk(2)
            pair = Pair(first, second, relation.inverse().to(self.device), shown, shown_second, self.centres)
            more = {"matches": settings["points"], "negatives": settings["negatives"]}
            own = more if settings["descriptor_loss"] == "sparse" else {}
            matching = DESCRIPTOR_LOSSES[settings["descriptor_loss"]](pair, dice.rand, **own).mean()
        target = self._target(torch.cat(points), torch.cat([found, found]), dice)
        detecting = DETECTOR_LOSSES[settings["detector_loss"]](detector.float(), target, valid)
        detecting = detecting.mean() if settings["view_pairs"] == "wide" else 2 * detecting.mean()
        loss = detecting + settings["descriptor_weight"] * matching
        return loss, {"detector": detecting.detach(), "descriptor": matching.detach(), **parts}

    def sample(self, dice: Dice) -> list[Sample]:
        """Return the pairs of a step for display."""
        views = self._views(dice)
        return pairs(views.batch, torch.cat(views.points), homography=views.relation.inverse(), inside=views.seen)

    def _views(self, dice: Dice) -> Views:
        size, wide = self.recipe.size, self.recipe.settings["view_pairs"] == "wide"
        chosen = dice.integers(len(self.pictures))
        pictures, known = self.pictures.take(chosen), self.labels[chosen.to(self.device)]
        place = random_views.sample(dice, size, self.square, PLACE if wide else self._whole())
        relation = (
            random_views.sample(dice, size, size, RELATION) if wide else superpoint_views.sample(dice, size, WARP)
        )
        both, seen, points = [], [], []
        places = place, place @ relation
        for homography in places:
            view, inside = random_views.render(pictures, homography, size)
            both.append(
                random_views.photometric(view, dice) if wide else superpoint_views.photometric(view, dice, PHOTOMETRY)
            )
            seen.append(inside if wide else superpoint_views.shrink(inside, WARP.margin))
            points.append(random_views.project(known, homography.inverse(), size))
        return Views(torch.cat(both), torch.cat(seen), points, relation, chosen, places)

    def _whole(self) -> random_views.Spread:
        """Return the spread of a view with the whole width of its image."""
        scale = (self.recipe.picture_size - 1) / (max(self.recipe.size) - 1)
        return random_views.Spread(scale=(scale, scale), rotation=0.0, tilt=0.0, shift=0.0)

    def _match(self, descriptor: Tensor, points: list[Tensor], dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the descriptor loss; 1 for labels (B, N) that found their partner, 0 for others; the share found."""
        settings = self.recipe.settings
        both = torch.stack([(p[..., 2] > 0) & (p[..., :2] > 2.0).all(-1) for p in points]).all(0)
        index = correspondence.choose(both, dice.rand(both.shape[1]), settings["points"])
        valid = both.gather(1, index)
        one, two = (p[..., :2].gather(1, index[..., None].expand(-1, -1, 2)) for p in points)
        first, second = descriptor.chunk(2)
        first = sample_at(first, one + dice.noise(*one.shape[1:]) * SHAKE, self.recipe.size, self.centres)
        second = sample_at(second, two + dice.noise(*two.shape[1:]) * SHAKE, self.recipe.size, self.centres)
        loss, hit = correspondence.dual_softmax(first, second, (one, two), valid, CELL, settings["temperature"])
        found = torch.ones_like(both, dtype=torch.float32)
        found.scatter_(1, index, torch.where(valid, hit.float(), 1.0))
        return loss.mean(), found, hit.sum() / valid.sum().clamp(min=1)

    def _target(self, points: Tensor, found: Tensor, dice: Dice) -> Tensor:
        """Return the labels of the cells (2 B, 65, h, w), see the setting `corner_labels`."""
        size, kind = self.recipe.size, self.recipe.settings["corner_labels"]
        if kind == "trusted":
            weight = torch.where(_leads(points, size), torch.where(found > 0, 1.0, MISLED), 0.0)
            return labels(torch.cat([points[..., :2], weight[..., None]], -1), size, rest=True)
        target = labels(torch.cat([points[..., :2], (points[..., 2:] > 0).float()], -1), size)
        if kind == "drawn":
            target = choose(target, torch.cat(dice.rand(2, *target.shape[2:]).unbind(1)))
        return target


def _leads(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a mask (B, N) of the points (B, N, 3) with the best score of their cell."""
    rows, columns = (side // CELL for side in size)
    last = torch.tensor([size[1] - 1, size[0] - 1], device=points.device)
    pixel = points[..., :2].round().long().clamp(min=0).minimum(last)
    cell = pixel[..., 1] // CELL * columns + pixel[..., 0] // CELL
    score = points[..., 2]
    best = torch.zeros(len(points), rows * columns, device=points.device).scatter_reduce_(1, cell, score, "amax")
    return (score > 0) & (score >= best.gather(1, cell))


def sample_at(descriptor: Tensor, points: Tensor, size: tuple[int, int], centres: bool = True) -> Tensor:
    """Sample unit descriptors (B, N, D) at pixels (B, N, 2), as the decoders do.

    With `centres` as `describe_wren`, by true cell centres; otherwise as `describe_superpoint`, by the published rule.
    """
    unit = F.normalize(descriptor, dim=1)
    at = (points + 0.5 if centres else points) / torch.tensor([size[1], size[0]], device=points.device) * 2 - 1
    sampled = F.grid_sample(unit, at[:, None], mode="bilinear", padding_mode="border", align_corners=not centres)
    return F.normalize(sampled[:, :, 0].transpose(1, 2), dim=2)
