"""How Wren learns: pairs of views of one picture, labels that every view of the picture agrees on.

Detector: cross-entropy over the 65 classes of a cell (arXiv 1712.07629, section 3). The first labels are corners by
the smaller eigenvalue of the structure tensor, at several scales; later ones come from homographic adaptation by the
network itself (section 5 there). A labelled point counts in full only if its descriptor finds its partner, so that the
score learns to mean "repeatable and matchable".
Descriptor: cross-entropy of the dual softmax over the correspondences of a pair, points within 8 px left out.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.core import Array
from lf.train import Recipe, views

CELL = 8
LABELS = 448  # most points kept per picture: 28 % of the cells of a 320x320 picture
FAINTEST_CORNER = 0.008  # of the mean strength below: about 400 points in a photo of 320x320
FAINTEST_HEAT = 0.015  # the published threshold of homographic adaptation
BORDER = 4  # px
ADAPTATION = views.Spread(scale=(0.7, 1.4), rotation=25.0, tilt=0.12, shift=0.2)


class Method:
    """One training run's pictures, labels and loss. Everything random follows from (recipe.seed, step)."""

    def __init__(self, recipe: Recipe, pictures: Array, device: torch.device) -> None:
        """Take grey pictures (N, P, P) uint8 and label their corners."""
        self.recipe = recipe
        self.device = device
        self.pictures = torch.from_numpy(pictures)
        self.labels = torch.stack([_strongest(_corners(picture), FAINTEST_CORNER) for picture in pictures])

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs besides the network."""
        return {"labels": self.labels}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Undo everything since `state` was taken."""
        self.labels = state["labels"]

    def begin_step(self, step: int, network: nn.Module) -> bool:
        """Label the pictures anew where the recipe says so; return whether that happened."""
        if step not in {round(share * self.recipe.steps) for share in self.recipe.relabel}:
            return False
        network.eval()
        with torch.no_grad():
            self.labels = torch.cat([self._adapt(network, i) for i in range(0, len(self.pictures), 8)])
        network.train()
        return True

    def loss(self, network: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of one batch of pairs, and its parts for the log."""
        recipe = self.recipe
        rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        chosen = torch.randint(len(self.pictures), (recipe.batch,), generator=rng)
        chosen = torch.cat([chosen, chosen])  # the two halves of the batch are the two views of each pair
        pictures = self.pictures[chosen].to(self.device)[:, None].float() / 255
        place = views.sample(recipe.batch, recipe.size, recipe.picture_size, views.PLACE, rng)
        relation = views.sample(recipe.batch, recipe.size, recipe.size, views.RELATION, rng)
        homography = torch.cat([place, place @ relation]).to(self.device)
        view, inside = views.render(pictures, homography, recipe.size)
        view = views.photometric(view, rng)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
            detector, descriptor = network(view.contiguous(memory_format=torch.channels_last))
        detector, descriptor = detector.float(), descriptor.float()
        points = self._project(self.labels[chosen].to(self.device), homography.inverse())
        matching, found, accuracy = self._match(descriptor, points, rng)
        detecting = _detector_loss(detector, points, found, inside)
        loss = detecting + recipe.descriptor_weight * matching
        return loss, {
            "detector": float(detecting.detach()),
            "descriptor": float(matching.detach()),
            "matched": accuracy,
        }

    def _project(self, labels: Tensor, homography: Tensor) -> Tensor:
        """Labels (B, N, 3) of the pictures into the views -> (B, N, 3) x, y, score; score 0 where outside."""
        at = views.warp_points(labels[..., :2].double(), homography).float()
        limit = self.recipe.size - 0.5
        seen = ((at > -0.5) & (at < limit)).all(-1)
        return torch.cat([at, torch.where(seen, labels[..., 2], 0.0)[..., None]], -1)

    def _match(self, descriptor: Tensor, points: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, float]:
        """The descriptor loss; which labels found their partner, (2 batch, N); the share of them."""
        batch, count = self.recipe.batch, self.recipe.points
        first, second = points[:batch], points[batch:]
        margin = 2.0
        both = (first[..., 2] > 0) & (second[..., 2] > 0)
        both &= (first[..., :2] > margin).all(-1) & (second[..., :2] > margin).all(-1)
        order = torch.rand(both.shape, generator=rng).to(both.device) + both.float()
        index = order.topk(min(count, order.shape[1]), dim=1).indices
        valid = both.gather(1, index)
        xy = [p[..., :2].gather(1, index[..., None].expand(-1, -1, 2)) for p in (first, second)]
        # at run time the partner is found a pixel or so beside the true place
        shaken = [p + torch.randn(p.shape, generator=rng).to(p.device) * 0.7 for p in xy]
        one, two = (_sample(d, p, self.recipe.size) for d, p in zip(descriptor.chunk(2), shaken, strict=True))
        similarity = one @ two.transpose(1, 2) / self.recipe.temperature
        near = torch.cdist(xy[1], xy[1]) < CELL
        near |= torch.cdist(xy[0], xy[0]) < CELL
        near &= ~torch.eye(near.shape[1], dtype=torch.bool, device=near.device)
        similarity = similarity.masked_fill(near | ~valid[:, :, None] | ~valid[:, None, :], -1e4)
        target = torch.arange(similarity.shape[1], device=similarity.device).expand(batch, -1)
        rows = F.cross_entropy(similarity.transpose(1, 2), target, reduction="none")
        columns = F.cross_entropy(similarity, target, reduction="none")
        loss = ((rows + columns) * valid).sum() / valid.sum().clamp(min=1) / 2
        hit = (similarity.argmax(2) == target) & (similarity.argmax(1) == target)
        found = torch.ones_like(first[..., 2])
        found.scatter_(1, index, torch.where(valid, hit.float(), 1.0))
        share = float((hit & valid).sum() / valid.sum().clamp(min=1))
        return loss, torch.cat([found, found]), share

    def _adapt(self, network: nn.Module, start: int) -> Tensor:
        """Homographic adaptation of eight pictures: the mean heat map over random views, then its maxima."""
        pictures = self.pictures[start : start + 8].to(self.device)[:, None].float() / 255
        side = self.recipe.picture_size
        rng = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + start)
        total = torch.zeros_like(pictures)
        weight = torch.full_like(pictures, 1e-6)
        for turn in range(self.recipe.adaptations):
            homography = views.sample(len(pictures), side, side, ADAPTATION, rng).to(self.device)
            if turn == 0:
                homography = torch.eye(3, dtype=torch.float64, device=self.device).expand_as(homography)
            view, _ = views.render(pictures, homography, side)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
                logits = network(view.contiguous(memory_format=torch.channels_last))[0]
            heat = F.pixel_shuffle(logits.float().softmax(1)[:, :64], CELL)
            back, inside = views.render(heat, homography.inverse(), side)
            total += back * inside[:, None]
            weight += inside[:, None]
        mean = (total / weight)[:, 0].cpu().numpy()
        return torch.stack([_strongest(heat, FAINTEST_HEAT) for heat in mean])


def _corners(picture: Array) -> Array:
    """Corner strength (P, P): root of the structure tensor's smaller eigenvalue, mean over 3 scales, finest first."""
    height, width = picture.shape
    total = np.zeros((height, width), np.float32)
    scales = (1.0, 0.7, 0.5)
    for factor in scales:
        small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        smooth = cv2.GaussianBlur(small.astype(np.float32) / 255, (0, 0), 1.0)
        strength = np.sqrt(np.maximum(cv2.cornerMinEigenVal(smooth, 3), 0))
        total += factor * cv2.resize(strength, (width, height), interpolation=cv2.INTER_CUBIC)  # fine scales say where
    return total / sum(scales)


def _strongest(heat: Array, faintest: float) -> Tensor:
    """The LABELS strongest local maxima (9x9) of a map (P, P) -> (LABELS, 3) x, y, score in (0, 1]; zeros fill up."""
    peak = heat == cv2.dilate(heat, np.ones((9, 9), np.uint8))
    peak &= heat > faintest
    peak[:BORDER], peak[-BORDER:], peak[:, :BORDER], peak[:, -BORDER:] = False, False, False, False
    y, x = np.nonzero(peak)
    order = np.argsort(-heat[y, x], kind="stable")[:LABELS]
    labels = np.zeros((LABELS, 3), np.float32)
    labels[: len(order)] = np.stack([x[order], y[order], heat[y[order], x[order]]], 1)
    labels[:, 2] /= max(float(labels[:, 2].max()), 1e-9)
    return torch.from_numpy(labels)


def _sample(descriptor: Tensor, points: Tensor, size: int) -> Tensor:
    """Unit descriptors (B, N, D) at pixel points (B, N, 2), by the rule of the decoder: see `lf.models.decode.wren`."""
    unit = F.normalize(descriptor, dim=1)
    at = (points + 0.5) / size * 2 - 1
    sampled = F.grid_sample(unit, at[:, None], mode="bilinear", padding_mode="border", align_corners=False)
    return F.normalize(sampled[:, :, 0].transpose(1, 2), dim=2)


def _detector_loss(logits: Tensor, points: Tensor, found: Tensor, inside: Tensor) -> Tensor:
    """Cross-entropy of (B, 65, h, w) against the strongest label of each cell; a label that misled counts half."""
    batch, _, rows, columns = logits.shape
    pixel = points[..., :2].round().long().clamp(0, rows * CELL - 1)
    cell = pixel[..., 1] // CELL * columns + pixel[..., 0] // CELL
    place = pixel[..., 1] % CELL * CELL + pixel[..., 0] % CELL
    score = points[..., 2]
    best = torch.zeros(batch, rows * columns, device=logits.device).scatter_reduce_(1, cell, score, "amax")
    chosen = (score > 0) & (score >= best.gather(1, cell))
    target = torch.zeros(batch, 65, rows * columns, device=logits.device)
    target[:, 64] = 1.0
    which = torch.arange(batch, device=logits.device)[:, None].expand_as(cell)[chosen]
    trust = torch.where(found > 0, 1.0, 0.3)[chosen]
    target[which, place[chosen], cell[chosen]] = trust
    target[which, 64, cell[chosen]] = 1 - trust
    valid = F.avg_pool2d(inside.float()[:, None], CELL).flatten(1) > 0.999
    loss = -(target * logits.flatten(2).log_softmax(1)).sum(1)
    return (loss * valid).sum() / valid.sum().clamp(min=1)
