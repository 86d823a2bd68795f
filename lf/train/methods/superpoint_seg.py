"""Train a segmentation head on SuperPoint, jointly or with the other heads frozen.

Both views of a pair are supervised. The masks go through the homographies of their views.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lf.core import UsageError
from lf.data.masks import VOID
from lf.models import MODELS, checkpoint
from lf.models.resolve import resolve
from lf.models.row import SEGMENTATION
from lf.train import Recipe
from lf.train.label_sources import LABELS
from lf.train.losses import map_losses
from lf.train.losses.segmentation_losses import SEGMENTATION_LOSSES, resized
from lf.train.methods import superpoint
from lf.train.methods.superpoint import Views
from lf.train.pictures import Pictures
from lf.train.sample import Sample, pairs
from lf.train.views.random_views import Dice, render_classes

LEAST = 2  # least number of pairs of a process: batch normalisation of a pooled vector needs several images


class Method(superpoint.Method):
    """A segmentation head on SuperPoint: labelled images and loss. Settings of `superpoint`, and:

    trunk: `joint` trains all heads together; `detached` also, but the segmentation has no gradient in the trunk;
        `frozen` trains only the segmentation: keypoints and descriptors of `init` do not change.
    keypoints: target of detector and descriptor if the trunk is not frozen. `labels`: labelled points, as in
        `superpoint`; `parent`: the maps of `init` on the same views (learning without forgetting, arXiv 1606.09282).
        With `parent`, only the segmentation updates the statistics of its batch normalisation.
    segmentation_loss: a row of SEGMENTATION_LOSSES.
    segmentation_weight: weight of the segmentation loss in the sum.
    """

    def __init__(self, recipe: Recipe, pictures: Pictures, device: torch.device) -> None:
        """Label the images or load the parent, unless only the segmentation is trained."""
        self.frozen = recipe.settings["trunk"] == "frozen"
        taught = recipe.settings["keypoints"] == "parent" and not self.frozen
        self.parent = checkpoint.network(resolve(recipe.init)).to(device) if taught else None
        self.labelled = not self.frozen and not taught
        super().__init__(recipe, pictures, device)

    def _first_labels(self) -> Tensor:
        if self.labelled:
            return super()._first_labels()
        return torch.zeros(len(self.pictures), LABELS, 3)

    def prepare(self, network: nn.Module) -> None:
        """Freeze everything except the segmentation if the trunk is frozen."""
        for name, parameter in network.named_parameters() if self.frozen else ():
            parameter.requires_grad_(name.startswith(SEGMENTATION))

    def begin_step(self, step: int, network: nn.Module) -> None:
        """See `superpoint.Method`. Without labels, the trunk keeps the statistics of its batch normalisation."""
        if self.labelled:
            super().begin_step(step, network)
            return
        for name, part in network.named_children():
            part.train(name == SEGMENTATION)

    def loss(self, network: nn.Module, dice: Dice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of the pairs, and its parts for the log.

        Raises:
            UsageError: a process has only one pair.
        """
        if dice.pairs < LEAST:
            raise UsageError(
                f"recipe: batch={self.recipe.batch} over {dice.batch // dice.pairs} processes; "
                f"expected at least {LEAST} for each, for batch normalisation"
            )
        settings = self.recipe.settings
        views = self._views(dice)
        masks = self._masks(views)
        dice.data_ready()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            batch = views.batch.contiguous(memory_format=torch.channels_last)
            more = {"detach": True} if settings["trunk"] == "detached" else {}
            detector, descriptor, logits = network(batch, **more)
        sized = resized(logits.float(), self.recipe.size)
        found = SEGMENTATION_LOSSES[settings["segmentation_loss"]](sized, masks)
        parts = {SEGMENTATION: found.detach(), "accuracy": _accuracy(sized.detach(), masks)}
        loss = settings["segmentation_weight"] * found
        if self.labelled:
            keypoints, others = self._keypoint_loss(detector, descriptor, views, dice)
            loss, parts = loss + keypoints, others | parts
        elif self.parent is not None:
            keypoints, others = self._parent_loss(self.parent, detector, descriptor, batch)
            loss, parts = loss + keypoints, others | parts
        return loss, parts

    def _parent_loss(
        self, parent: nn.Module, detector: Tensor, descriptor: Tensor, batch: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the distance of detector and descriptor maps from the maps of the parent on the same views."""
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            heads = MODELS[self.recipe.model].heads
            maps = dict(zip(heads, parent(batch), strict=False))  # the parent may have no segmentation
        learned = {"detector": detector.float(), "descriptor": descriptor.float()}
        taught = {head: maps[head].float() for head in learned}
        return map_losses.total(learned, taught, self.recipe.settings["descriptor_weight"])

    def sample(self, dice: Dice) -> list[Sample]:
        """Return the pairs of a step with their masks for display."""
        views = self._views(dice)
        known = torch.cat(views.points) if self.labelled else None
        homography = views.relation.inverse()
        return pairs(views.batch, known, homography=homography, inside=views.seen, masks=self._masks(views))

    def _masks(self, views: Views) -> Tensor:
        """Return the classes (2 B, H, W) int64 of the pixels of views; VOID outside the image."""
        masks = self.pictures.masks(views.chosen)
        return torch.cat([render_classes(masks, place, self.recipe.size, VOID) for place in views.places]).long()


def _accuracy(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the share of correctly classified pixels among the pixels that are not ignored."""
    known = masks != VOID
    return ((logits.argmax(1) == masks) & known).sum() / known.sum().clamp(min=1)
