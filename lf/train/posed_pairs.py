"""Training pairs with camera poses: views in one file, and the cameras of each pair.

Views have the size of the recipe's: larger ones are made smaller until one side fits, and cut to their middle. Their
cameras move with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from lf.core import Array, BadInput, UsageError, files, ledger
from lf.core.fingerprint import versions
from lf.data.cameras import RelativePose, relative, rotation_angle
from lf.data.posed import Scene, scenes
from lf.models import MODELS
from lf.train import Recipe
from lf.train.pictures import FILE, INDEX, Crop, Pictures, Progress, reserve
from lf.train.views.random_views import Dice

DRAWN = 100  # default number of drawn scenes
EACH = 1000  # scene numbers per seed
LEAST_BASELINE = 1e-6  # in units of the world; cameras with the same centre have no epipolar lines


@dataclass(frozen=True)
class PosedPairs:
    """The views of a run, and their pairs.

    Attributes:
        pictures: all views.
        index: (P, 2) int64, the views of each pair.
        fundamental: (P, 2, 3, 3) float32: points of the first -> lines of the second view, and back.
    """

    pictures: Pictures
    index: Tensor
    fundamental: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    def on(self, device: torch.device) -> PosedPairs:
        """See `Pictures.on`."""
        return dataclasses.replace(self, pictures=self.pictures.on(device))

    def take(self, index: Tensor) -> Tensor:
        """See `Pictures.take`."""
        return self.pictures.take(index)

    def draw(self, dice: Dice) -> tuple[Tensor, Tensor, Tensor]:
        """Random pairs, either view first: (2 B, C, H, W) in [0, 1], first views first, and F (B, 3, 3) each way."""
        pair, turned = dice.integers(len(self.index)), dice.integers(2)
        views = torch.where(turned[:, None] > 0, self.index[pair].flip(1), self.index[pair])
        ways = self.fundamental[pair]
        ways = torch.where(turned[:, None, None, None] > 0, ways.flip(1), ways).to(dice.device)
        return self.take(torch.cat([views[:, 0], views[:, 1]])), ways[:, 0], ways[:, 1]


def collect(recipe: Recipe, data: Sequence[str], out: Path, progress: Progress, begun: bool = False) -> PosedPairs:
    """Read or draw the views of a run into `out`, or open the views that an earlier start left there.

    Args:
        recipe: at most `pictures` views, 0 for all, of its `size` and with the channels of its model; its settings
            `max_turn`, the largest rotation between the views of a pair in degrees, and `most_pairs` of a scene.
        data: sources, each `scenes:N` (drawn scenes of `lf.data.posed.drawn.training`), `posed:DIR` or a folder.
        out: folder of the run.
        progress: called with (done, total, text).
        begun: True if training with the views has begun. Then they are kept, even if the code that made them changed.

    Raises:
        UsageError: a source has no camera poses.
        BadInput: a folder without cameras, an image that cannot be read, or no usable pair.
    """
    own: dict[str, Any] = {"data": list(data), **{k: getattr(recipe, k) for k in ("pictures", "size", "seed", "model")}}
    own |= {key: recipe.settings[key] for key in ("max_turn", "most_pairs")}
    code = versions(__name__)
    index = ledger.resume(out / INDEX, {**own, **code}, "restart", ignore=code if begun else (), before="settings")
    if kept := _kept(out, index.content):
        return kept
    found, chosen = _chosen(recipe, data)
    places = sorted({(s, v) for s, *pair in chosen for v in pair})  # by scene: its views share textures
    number = {place: n for n, place in enumerate(places)}
    grey = MODELS[recipe.model].channels == 1
    cameras: list[list[list[float]]] = []
    crops: list[Crop] = []
    with files.atomic(out / FILE) as temporary:
        shape = (len(places), *recipe.size, 1 if grey else 3)
        squares = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        reserve(temporary)
        for n, (s, v) in enumerate(places):
            view = found[s].views[v]
            image, move = fitted(view.image.load(), recipe.size)
            squares[n] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if grey else image
            cameras.append(
                [(move @ view.K).ravel().tolist(), view.rotation.ravel().tolist(), view.translation.tolist()]
            )
            crops.append(Crop(view.image.key, 0, 0, 0, view.image.digest))
            progress(n + 1, len(places), "collecting views")
        squares.flush()
    pairs = [(number[s, i], number[s, j]) for s, i, j in chosen]
    index.write(crops=crops, cameras=cameras, pairs=pairs)
    return _opened(out, index.content)


def fitted(image: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """Resize and crop the centre of an image (H, W, C) to `size` (H, W); also the (3, 3) map of its pixels to there."""
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    shape = max(size[1], round(width * scale)), max(size[0], round(height * scale))
    resized = image
    if shape != (width, height):
        resized = cv2.resize(image, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    left, top = (shape[0] - size[1]) // 2, (shape[1] - size[0]) // 2
    x, y = shape[0] / width, shape[1] / height
    move = np.array([[x, 0, (x - 1) / 2 - left], [0, y, (y - 1) / 2 - top], [0, 0, 1]])
    return resized[top : top + size[0], left : left + size[1]], move


def _chosen(recipe: Recipe, data: Sequence[str]) -> tuple[list[Scene], list[tuple[int, int, int]]]:
    """Return all scenes, and random training pairs (scene, first view, second view), as many as `pictures` allows.

    Raises:
        BadInput: there are no pairs.
    """
    found = [scene for source in data for scene in _scenes(recipe, source)]
    rng, usable, total = np.random.default_rng(recipe.seed), list[tuple[int, int, int]](), 0
    for s, scene in enumerate(found):
        total += len(scene.listed)
        fits = [(s, i, j) for i, j in scene.listed if _usable(scene, i, j, recipe.settings["max_turn"])]
        most = recipe.settings["most_pairs"] or len(fits)
        usable += [fits[n] for n in sorted(rng.choice(len(fits), min(most, len(fits)), replace=False))]
    if not usable:
        raise BadInput(
            f"{' '.join(data)}: none of its {total} pairs can be learned from; expected two camera centres that differ "
            f"and a rotation of at most {recipe.settings['max_turn']:g} degrees"
        )
    if not recipe.pictures:
        return found, usable
    kept, views = list[tuple[int, int, int]](), set[tuple[int, int]]()
    for s, i, j in (usable[n] for n in rng.permutation(len(usable))):
        more = views | {(s, i), (s, j)}
        if len(more) <= max(2, recipe.pictures):
            kept, views = [*kept, (s, i, j)], more
    return found, kept


def _scenes(recipe: Recipe, source: str) -> list[Scene]:
    """Return the scenes of one source; for `scenes:N`, no more than `pictures` views need."""
    name, colon, count = source.partition(":")
    if name != "scenes" or (not colon and Path(source).exists()):
        return scenes(source)
    from lf.data.posed import drawn

    if colon and not (count.isdecimal() and int(count)):
        raise UsageError(f"'{source}' needs a number of scenes, such as scenes:{DRAWN}")
    wanted = int(count or DRAWN)
    wanted = min(wanted, max(1, -(-recipe.pictures // drawn.VIEWS))) if recipe.pictures else wanted
    return [drawn.training(recipe.seed * EACH + n, recipe.size) for n in range(wanted)]


def _usable(scene: Scene, i: int, j: int, max_turn: float) -> bool:
    first, second = scene.views[i], scene.views[j]
    apart = np.linalg.norm(first.centre - second.centre) > LEAST_BASELINE
    return bool(apart and rotation_angle(first.rotation, second.rotation) <= max_turn)


def _kept(out: Path, content: Mapping[str, Any]) -> PosedPairs | None:
    """Return the views of an earlier start; None if they are missing or damaged, as they can be made again."""
    try:
        return _opened(out, content)
    except (OSError, ValueError, EOFError, KeyError, TypeError, IndexError):
        return None


def _opened(out: Path, content: Mapping[str, Any]) -> PosedPairs:
    views = np.load(out / FILE, mmap_mode="r")
    pairs, ways = content["pairs"], []
    cameras = [(np.reshape(K, (3, 3)), np.reshape(R, (3, 3)), np.array(t)) for K, R, t in content["cameras"]]
    if len(views) != len(cameras) or not pairs:
        raise ValueError("views and cameras differ in number")
    for i, j in pairs:
        (K0, *first), (K1, *second) = cameras[i], cameras[j]
        pose = RelativePose(K0, K1, *relative((first[0], first[1]), (second[0], second[1])))
        ways.append([way / np.linalg.norm(way) for way in (pose.fundamental, pose.reversed().fundamental)])
    pictures = Pictures(views, tuple(Crop(*crop) for crop in content["crops"]))
    return PosedPairs(pictures, torch.tensor(pairs), torch.from_numpy(np.array(ways, np.float32)))
