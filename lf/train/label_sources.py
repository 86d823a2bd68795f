"""Sources of labels: corners, a teacher, the network's own homographic adaptation, or `lf label`.

Labels are (N, LABELS, 3) float32: x, y in px of the square, score in (0, 1], best first; padding has score 0.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.core import Array, UsageError
from lf.models.decode import CELL
from lf.train import Recipe
from lf.train.label_photos import points_of, read_labels
from lf.train.pictures import Crop, Pictures
from lf.train.teacher import Teacher
from lf.train.views import random_views
from lf.train.views.random_views import Dice

LABELS = 448  # most points kept per image: 28 % of the cells of a 320x320 image
FAINTEST_CORNER = 0.008  # of the mean strength below: about 400 points in a photo of 320x320
FAINTEST_HEAT = 0.015  # the published threshold of homographic adaptation
BORDER = 4  # px
ADAPTATION = random_views.Spread(scale=(0.7, 1.4), rotation=25.0, tilt=0.12, shift=0.2)
TOGETHER = 8  # images adapted at a time


def first_labels(recipe: Recipe, pictures: Pictures) -> Tensor:
    """Return the first labels (N, LABELS, 3) x, y, score: corners, or those that `lf label` wrote into a folder.

    Raises:
        BadInput: the folder has no labels for one of the images, or has labels of another photo of the same name.
    """
    if recipe.settings["labels"] == "corners":
        every = (pictures.take(torch.tensor([i]))[0, 0].cpu().numpy() for i in range(len(pictures)))
        return torch.stack([_strongest(_corners(picture), FAINTEST_CORNER) for picture in every])
    folder = Path(recipe.settings["labels"])
    known = read_labels(folder)
    # the names of labelled images have no suffix, so their bytes identify them
    same = {each.sha256: name for name, each in known.items()} if pictures.masked else {}
    names = [same.get(crop.sha256, crop.name) for crop in pictures.crops]
    return torch.stack(
        [
            _cut(points_of(known, folder, name, crop.sha256), crop, recipe.picture_size)
            for name, crop in zip(names, pictures.crops, strict=True)
        ]
    )


def taught_labels(pictures: Pictures, teacher: Teacher) -> Tensor:
    """Return the keypoints (N, LABELS, 3) x, y, score that a teacher finds in each image.

    Raises:
        UsageError: it finds none in any image, or cannot take images of that size.
    """
    found = []
    for index in range(len(pictures)):
        picture = pictures.take(torch.tensor([index]))
        points, scores = teacher.find(picture, LABELS)
        height, width = picture.shape[2:]
        last = np.array([width - 1, height - 1])
        inside = ((points >= BORDER) & (points <= last - BORDER)).all(1)
        found.append(_filled(points[inside], scores[inside]))
    labels = torch.stack(found)
    if not labels.any():
        raise UsageError(
            f"recipe: teacher={teacher.name} finds no keypoint in {len(pictures)} images; expected a network that does"
        )
    return labels


def adapt(recipe: Recipe, pictures: Pictures, network: nn.Module, device: torch.device) -> Tensor:
    """Label all images with a network in training, by homographic adaptation over few views and without gradients."""
    network.eval()
    with torch.no_grad():
        starts = range(0, len(pictures), TOGETHER)
        found = torch.cat([_adapt(recipe, pictures, network, device, start) for start in starts])
    network.train()
    return found


def _adapt(recipe: Recipe, pictures: Pictures, network: nn.Module, device: torch.device, start: int) -> Tensor:
    """Return the maxima of the mean heat map over random views of some images."""
    square = (recipe.picture_size, recipe.picture_size)
    index = torch.arange(start, min(start + TOGETHER, len(pictures)))
    some = pictures.take(index)
    total = torch.zeros_like(some)
    weight = torch.full_like(some, 1e-6)
    for turn in range(recipe.settings["adaptations"]):
        dice = Dice(recipe.seed, start * 1000 + turn, len(index), device)
        homography = random_views.sample(dice, square, square, ADAPTATION)
        if turn == 0:
            homography = torch.eye(3, dtype=torch.float64).expand_as(homography)
        view, _ = random_views.render(some, homography, square)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            logits = network(view.contiguous(memory_format=torch.channels_last))[0]
        heat = F.pixel_shuffle(logits.float().softmax(1)[:, :64], CELL)
        back, inside = random_views.render(heat, homography.inverse(), square)
        total += back * inside[:, None]
        weight += inside[:, None]
    mean = (total / weight)[:, 0].cpu().numpy()
    return torch.stack([_strongest(heat, FAINTEST_HEAT) for heat in mean])


def _cut(points: Array, crop: Crop, side: int) -> Tensor:
    """Return the points of a photo that lie in a square cut from it, in pixels of the square."""
    points = points[np.argsort(-points[:, 2], kind="stable")]
    at = (points[:, :2] - (crop.left, crop.top) + 0.5) * (side / crop.side) - 0.5
    inside = ((at >= BORDER) & (at <= side - 1 - BORDER)).all(1)
    return _filled(at[inside], points[inside, 2])


def _corners(picture: Array) -> Array:
    """Return corner strength (P, P): root of the structure tensor's smaller eigenvalue, weighted mean over 3 scales."""
    height, width = picture.shape
    total = np.zeros((height, width), np.float32)
    scales = (1.0, 0.7, 0.5)
    for factor in scales:
        small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        smooth = cv2.GaussianBlur(small, (0, 0), 1.0)
        strength = np.sqrt(np.maximum(cv2.cornerMinEigenVal(smooth, 3), 0))
        total += factor * cv2.resize(strength, (width, height), interpolation=cv2.INTER_CUBIC)  # fine scales weigh more
    return total / sum(scales)


def _strongest(heat: Array, faintest: float) -> Tensor:
    """Return the LABELS strongest local maxima (9x9) of a map (P, P): (LABELS, 3) x, y, score, padded with zeros."""
    peak = heat == cv2.dilate(heat, np.ones((9, 9), np.uint8))
    peak &= heat > faintest
    peak[:BORDER], peak[-BORDER:], peak[:, :BORDER], peak[:, -BORDER:] = False, False, False, False
    y, x = np.nonzero(peak)
    order = np.argsort(-heat[y, x], kind="stable")[:LABELS]
    y, x = y[order], x[order]
    right = x + _top(heat[y, x - 1], heat[y, x], heat[y, x + 1])
    down = y + _top(heat[y - 1, x], heat[y, x], heat[y + 1, x])
    return _filled(np.stack([right, down], 1), heat[y, x])


def _filled(at: Array, score: Array) -> Tensor:
    """Pad points (n, 2), best first, to (LABELS, 3), with scores divided by the best score."""
    filled = np.zeros((LABELS, 3), np.float32)
    count = min(len(at), LABELS)
    filled[:count, :2] = at[:count]
    filled[:count, 2] = score[:count] / max(float(score.max(initial=0)), 1e-9)
    return torch.from_numpy(filled)


def _top(before: Array, at: Array, after: Array) -> Array:
    """Return the offset, -0.5 to 0.5, of the peak of the parabola through a local maximum and its two neighbours."""
    bend = np.maximum(2 * at - before - after, 1e-12)
    top: Array = np.clip((after - before) / (2 * bend), -0.5, 0.5)
    return top
