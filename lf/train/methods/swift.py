"""Train Swift on pairs of views: positions from windows, descriptors from negatives.

Positions: `lf.train.losses.window_losses`. Descriptors: a dual softmax over the labels of all pairs of the step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.train import Recipe
from lf.train.label_sources import first_labels, taught_labels
from lf.train.losses import correspondence, window_losses
from lf.train.losses.window_losses import SHIFT
from lf.train.methods.superpoint import MISLED, SHAKE, sample_at
from lf.train.pictures import Pictures
from lf.train.sample import Sample, pairs
from lf.train.teacher import Teacher, similarity_loss
from lf.train.views import random_views
from lf.train.views.random_views import Dice, Spread

PLACE = Spread(scale=(0.6, 1.3), rotation=25.0, tilt=0.05, shift=0.4)  # position of a pair in its image
CROWD = 4  # px: a label counts if no better one is this near along both axes, as at run time
NEAR = 5.0  # px: labels nearer than this are not negatives of each other


class Asked(NamedTuple):
    """Labels of a step, chosen for comparing their descriptors.

    Attributes:
        both: (B, N) bool, labels that are visible in both views.
        chosen: (B, M) indices of the chosen labels.
        valid: (B, M) bool, chosen labels that are visible in both views; only these count.
        at: pixels (B, M, 2) of the chosen labels in the first and in the second view.
        shaken: pixels at which their descriptors are sampled, (B, M, 2) each.
        descriptors: unit descriptors (B, M, D) of the first and of the second view.
    """

    both: Tensor
    chosen: Tensor
    valid: Tensor
    at: tuple[Tensor, Tensor]
    shaken: tuple[Tensor, Tensor]
    descriptors: tuple[Tensor, Tensor]


class Method:
    """Dense scores and descriptors from labelled points: pairs of views, labels and loss. Settings:

    labels: `corners`; `teacher`, the keypoints that the teacher finds; or a folder made by `lf label`.
    scale: largest ratio of scale between the two views, in either direction.
    rotation: standard deviation of the rotation of the second view, degrees; 90 or more gives any angle.
    light: strength of changes of light, contrast and noise; other methods have 1.
    matchability: whether the score depends on matching. `none`: it does not. `found`: labels that did not find their
        partner by descriptor get a lower peak in the heat map. `reward`: scores of labels that found their partner are
        raised, scores of the others are lowered, as DISK does (arXiv 2006.13566).
    heat_weight, descriptor_weight: weights in the sum of losses; the window loss has weight 1.
    points: largest number of labels of a pair to compare by descriptor.
    rivals: negatives of a descriptor, from its `pair` or from the whole `batch`.
    temperature: temperature of the softmax over similarities.
    teacher: checkpoint of a network that describes given points; empty for none. The descriptors also learn its
        similarities. Its licence goes into the card.
    teacher_weight: weight of these similarities in the sum; 0 leaves them out.
    """

    extra: nn.Module | None = None
    images = 2  # per pair of the batch

    def __init__(self, recipe: Recipe, pictures: Pictures, device: torch.device) -> None:
        """Label the images."""
        self.recipe = recipe
        self.device = device
        self.pictures = pictures
        self.square = (recipe.picture_size, recipe.picture_size)
        scale = recipe.settings["scale"]
        self.relation = Spread((1 / scale, scale), recipe.settings["rotation"], tilt=0.22, shift=0.3)
        teacher = recipe.settings["teacher"]
        self.teacher = Teacher(teacher, recipe.size, device) if teacher else None
        self.taught_by = self.teacher.weights if self.teacher else {}
        if self.teacher and recipe.settings["labels"] == "teacher":
            self.labels = taught_labels(pictures, self.teacher).to(device)
        else:
            self.labels = first_labels(recipe, pictures).to(device)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that `restore` needs in addition to the network."""
        return {"labels": self.labels}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the tensors that `state` returned."""
        self.labels = state["labels"]

    def begin_step(self, step: int, network: nn.Module) -> None:
        """Do nothing: steps need no preparation."""

    def loss(self, network: nn.Module, dice: Dice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of the pairs, and its parts for the log."""
        settings = self.recipe.settings
        batch, seen, points, _ = self._views(dice)
        dice.data_ready()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            score, descriptor = network(batch.contiguous(memory_format=torch.channels_last))
        logits = F.pixel_shuffle(score.float(), 2)[:, 0]
        asked = self._ask(descriptor.float(), points, dice)
        matching, found, known, matched = self._match(asked)
        both = torch.cat(points)
        view, place = window_losses.leading(both, self.recipe.size, CROWD).nonzero().unbind(1)
        at = both[view, place, :2]
        shift = torch.cat((dice.rand(2, both.shape[1], 2) * (2 * SHIFT + 1)).unbind(1)).long() - SHIFT
        position = window_losses.window(logits, view, at, shift[view, place]).mean()
        weight = torch.ones_like(at[:, 0])
        if settings["matchability"] == "found":
            weight = torch.where(torch.cat([found, found])[view, place], weight, MISLED)
        heat = window_losses.height(logits, window_losses.heat(view, at, weight, logits.shape), seen)
        loss = position + settings["heat_weight"] * heat + settings["descriptor_weight"] * matching
        if settings["matchability"] == "reward":
            loss = loss - reward(logits, both, torch.cat([found, found]), torch.cat([known, known]))
        parts = {"position": position, "heat": heat, "descriptor": matching, "matched": matched}
        if self.teacher and settings["teacher_weight"]:
            parts["taught"] = self._taught(self.teacher, batch, asked)
            loss = loss + settings["teacher_weight"] * parts["taught"]
        return loss, {name: part.detach() for name, part in parts.items()}

    def sample(self, dice: Dice) -> list[Sample]:
        """Return the pairs of a step for display."""
        batch, seen, points, relation = self._views(dice)
        return pairs(batch, torch.cat(points), homography=relation.inverse(), inside=seen)

    def _views(self, dice: Dice) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Return views (2 B, C, H, W), first views first; a mask (2 B, H, W) of pixels inside the image; labels
        (B, N, 3) of first and of second views; homographies (B, 3, 3) from second to first views.
        """
        size = self.recipe.size
        chosen = dice.integers(len(self.pictures))
        pictures, known = self.pictures.take(chosen), self.labels[chosen.to(self.device)]
        place = random_views.sample(dice, size, self.square, PLACE)
        relation = random_views.sample(dice, size, size, self.relation)
        both, seen, points = [], [], []
        for homography in (place, place @ relation):
            view, inside = random_views.render_smooth(pictures, homography, size)
            both.append(random_views.photometric(view, dice, self.recipe.settings["light"]))
            seen.append(inside)
            points.append(random_views.project(known, homography.inverse(), size))
        return torch.cat(both), torch.cat(seen), points, relation

    def _ask(self, descriptor: Tensor, points: list[Tensor], dice: Dice) -> Asked:
        """Choose labels that are visible in both views, and sample the descriptors (2 B, D, h, w) near them."""
        both = (points[0][..., 2] > 0) & (points[1][..., 2] > 0)
        index = correspondence.choose(both, dice.rand(both.shape[1]), self.recipe.settings["points"])
        one, two = (p[..., :2].gather(1, index[..., None].expand(-1, -1, 2)) for p in points)
        first, second = descriptor.chunk(2)
        shaken = one + dice.noise(*one.shape[1:]) * SHAKE, two + dice.noise(*two.shape[1:]) * SHAKE
        found = sample_at(first, shaken[0], self.recipe.size), sample_at(second, shaken[1], self.recipe.size)
        return Asked(both, index, both.gather(1, index), (one, two), shaken, found)

    def _match(self, asked: Asked) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the descriptor loss; a mask (B, N) of labels that found their partner or were not compared; a mask
        (B, N) of compared labels; the share of compared labels that found their partner.
        """
        settings, valid = self.recipe.settings, asked.valid
        compare = correspondence.batch_softmax if settings["rivals"] == "batch" else correspondence.dual_softmax
        loss, hit = compare(*asked.descriptors, asked.at, valid, NEAR, settings["temperature"])
        found = torch.ones_like(asked.both).scatter(1, asked.chosen, hit | ~valid)
        known = torch.zeros_like(asked.both).scatter(1, asked.chosen, valid)
        return loss.mean(), found, known, hit.sum() / valid.sum().clamp(min=1)

    def _taught(self, teacher: Teacher, batch: Tensor, asked: Asked) -> Tensor:
        """Return the distance between the similarities of the chosen labels, over both views, and the teacher's."""
        taught = teacher.describe(batch, torch.cat(asked.shaken)).chunk(2)
        return similarity_loss(torch.cat(asked.descriptors, 1), torch.cat(taught, 1), asked.valid.repeat(1, 2))


def reward(logits: Tensor, points: Tensor, found: Tensor, known: Tensor) -> Tensor:
    """Return the mean over the `known` labels of their score, negated for labels that did not find their partner."""
    height, width = logits.shape[1:]
    last = torch.tensor([width - 1, height - 1], device=logits.device)
    pixel = points[..., :2].round().long().clamp(min=0).minimum(last)
    peak = F.max_pool2d(logits[:, None], 3, 1, 1).flatten(1)
    score = peak.gather(1, pixel[..., 1] * width + pixel[..., 0]).sigmoid()
    return correspondence.mean_over(torch.where(found, score, -score), known).mean()
