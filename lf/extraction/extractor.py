"""Extractor: image to Features, in three timed phases, the same for every backend and network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from lf.core import Array, Artifact, BadInput, BadModel, Features, Session, Unavailable, UsageError, blaming
from lf.core.registry import load_plugins
from lf.data.images import check
from lf.extraction.clock import PHASES as PHASES
from lf.extraction.clock import Clock as Clock
from lf.extraction.pyramid import NAME as PYRAMID
from lf.extraction.pyramid import check_pyramid, joined, scaled
from lf.extraction.segmentation import read, refuse_without
from lf.models import Model, check_refinement, check_size, peaks, row_of, settings_of
from lf.runtimes import BACKENDS, open_session


class Extractor:
    """A session together with the decoder of its network.

    Attributes:
        session: the opened engine.
        model: the network's row.
        settings: keyword arguments of the decoder: those of the row, with overrides.
        keypoints: extractor of the points to describe; None for the network's own.
        resize: requested input size (H, W); None leaves it to the file.
        nms: requested radius of suppression, px; None leaves it to the network.
        segmentation: whether features have the segmentation of their image.
        pyramidal: whether features are extracted at several scales, see `lf.extraction.pyramid`.
    """

    def __init__(
        self,
        artifact: Artifact,
        backend: str,
        threads: int = 1,
        keypoints: Extractor | None = None,
        resize: tuple[int, int] | None = None,
        nms: int | None = None,
        refine: str | None = None,
        segmentation: bool = False,
        extraction: str | None = None,
        **settings: Any,
    ) -> None:
        """Open `artifact` in `backend`; `settings` override the model's published thresholds.

        `refine` is the sub-pixel method, see `lf.models.decode.refined`; None leaves it to the file. With
        `segmentation` features include it. `extraction` is `pyramid`, see `lf.extraction.pyramid`, or the name of
        published settings of the network, see `Model.extractions`.

        Raises:
            UsageError: `keypoints` is given, but the network has no dense descriptors; or `resize`, but the file or the
                network takes other sizes; or `refine`, but the network has no score map; or `segmentation`, but the
                network has none; or `extraction`, but the network has none of that name.
        """
        load_plugins()  # also in worker processes
        self.artifact = artifact
        self.model: Model = row_of(artifact.card)
        self.pyramidal = extraction == PYRAMID
        own = extraction if extraction != PYRAMID else None
        named = settings_of(own, artifact.card, str(artifact.path)) if own else {}
        self.settings = {**self.model.settings, **named, **settings}
        self.keypoints, self.resize, self.nms, self.segmentation = keypoints, resize, nms, segmentation
        if segmentation:
            refuse_without(artifact)
        if refine:
            self.settings["refine"] = check_refinement(refine, artifact.card, str(artifact.path))
        if nms and "nms_radius" in self.settings:
            self.settings["nms_radius"] = nms
        if resize:
            check_size(resize, self.model, artifact.card.model)
            if (fixed := artifact.card.size) and fixed != resize:
                asked = f"`size={resize[0]}x{resize[1]}`"
                raise UsageError(f"{asked}: {artifact.path} takes {fixed[0]}x{fixed[1]} only; leave `size` out")
        if keypoints and self.model.describe is None:
            what = artifact.path if artifact.card.features else artifact.card.model
            raise UsageError(f"{what} has no dense descriptors to sample at the points of another detector")
        if self.pyramidal:
            check_pyramid(self)
        self.session: Session = open_session(artifact, backend, threads)
        self._opened = backend, threads

    @property
    def backend(self) -> str:
        """The row of BACKENDS that runs the file."""
        return self._opened[0]

    def again(self) -> Extractor:
        """Return an extractor for another thread, with its own session; or this extractor if there is only one device.

        Raises:
            LfError: see `lf.runtimes.open_session`.
        """
        if BACKENDS[self._opened[0]].one_session:
            return self
        points = self.keypoints.again() if self.keypoints else None
        more = {**self.settings, "segmentation": self.segmentation, "extraction": PYRAMID if self.pyramidal else None}
        return Extractor(self.artifact, *self._opened, points, self.resize, self.nms, **more)

    def __call__(self, image: Array, clock: Clock | None = None, top_k: int | None = None) -> Features:
        """Extract keypoints of an image, the best `top_k` or all, at one scale unless the extraction is `pyramid`.

        The image is a numpy array (H, W) grey or (H, W, 3) RGB, of uint8 or of floats from 0 to 1.

        With `resize`, or a file made for one size, the image is resized to that, and the keypoints are mapped back,
        half-pixel exact.

        Raises:
            BadInput: another kind of image, see `lf.data.images.check`, or an image smaller than a cell of the network.
            BadModel: descriptors that are not of unit length, or a non-finite map.
        """
        clock = clock or Clock()
        whole = scaled(self, self._colour(image), clock) if self.pyramidal else self.once(image, clock, top_k)
        found = self._thinned(whole)
        return found if top_k is None else found.top(top_k)

    def once(self, image: Array, clock: Clock, top_k: int | None = None) -> Features:
        """Extract keypoints of an image at one scale, `top_k` or more, before the requested suppression."""
        with clock.phase("preprocess"):
            resized = self.fit(image)
            tensor = self.tensor(resized)
        height, width = image.shape[:2]
        with clock.phase("network"):
            maps = self.session.run(tensor)
        with clock.phase("postprocess"), blaming(self.artifact.path):
            keypoints, scores, descriptors = self._decode(_first(maps), resized, tensor, top_k)
            scale = np.array([width / resized.shape[1], height / resized.shape[0]], np.float32)
            found = checked(restore(keypoints, scale), scores, descriptors, (width, height))
            if not self.segmentation:
                return found
            seen = read(_first(maps), tensor.shape[2:], resized.shape[:2], (height, width))
            return replace(found, segmentation=seen)

    def maps(self, image: Array) -> dict[str, Array]:
        """Return the raw maps of an image, name -> (c, h, w) float32; for the image see `__call__`."""
        return _first(self.session.run(self.tensor(self.fit(image))))

    def check_engine(self) -> None:
        """Raise Unavailable if the engine does not run its network even on a small grey image.

        The error of an engine does not distinguish an unsuitable image from a missing device.
        """
        shape = self.artifact.card.size or (8 * max(8, self.model.multiple),) * 2
        try:
            self.session.run(self.tensor(self._colour(np.full(shape, 128, np.uint8))))
        except BadInput as error:
            raise Unavailable(
                f"the engine has stopped; what is written stays, type the same command again: {error}"
            ) from error

    def _decode(
        self, maps: Mapping[str, Array], image: Array, tensor: Array, top_k: int | None
    ) -> tuple[Array, Array, Array]:
        """Decode the maps of an image prepared by `tensor`; points are in pixels of the image, `top_k` or more."""
        maps = self.model.cut(maps, (image.shape[0], image.shape[1]))
        stretched = self._stretched(image, tensor)
        if self.keypoints is None or self.model.describe is None:
            thinned = self.nms and "nms_radius" not in self.settings  # afterwards, of all points
            best = {} if thinned or top_k is None else {"top_k": top_k}
            points, scores, descriptors = self.model.decode(maps, **self.settings | best)
            return points * stretched, scores, descriptors
        found = self.keypoints(image)
        return found.keypoints, found.scores, self.model.describe(maps, found.keypoints / stretched)

    def _stretched(self, image: Array, tensor: Array) -> Array:
        """Return factors (2,), x and y, from points of the network to points of the image; see `Model.prepare`."""
        sides = np.array(image.shape[1::-1], np.float32) / np.array(tensor.shape[:1:-1], np.float32)
        return sides if self.model.prepare and not self.model.pads else np.ones_like(sides)

    def pyramid(self, image: Array, clock: Clock | None = None) -> Features:
        """Extract keypoints over the published pyramid of the network: see R2D2 in `lf.models`.

        Scales start at 1 and shrink by 2^0.25; each level is resized from the one before; coordinates are multiplied
        by W/w without a half-pixel term, as published (arXiv 1906.06195, the authors' extraction).

        Raises:
            BadInput: the network has no published pyramid, the file has a fixed size, or the image is too small, or not
                an image that `__call__` takes.
        """
        rule = self.model.pyramid
        if rule is None:
            raise BadInput(f"{self.artifact.path}: {self.artifact.card.model} has no published pyramid")
        if self.artifact.card.size is not None:
            raise BadInput(f"{self.artifact.path}: a pyramid needs every size; export it again without `size`")
        if self.resize:
            raise BadInput(f"{self.artifact.path}: a pyramid has sizes of its own; leave `size` out")
        clock = clock or Clock()
        coloured = self._colour(image)
        level: Array = coloured.astype(np.float32) / 255 if coloured.dtype == np.uint8 else coloured
        height, width = image.shape[:2]
        longest, scale = max(height, width), 1.0
        found: list[Features] = []
        while scale + 0.001 >= max(rule["min_scale"], rule["min_size"] / longest):
            shape = round(width * scale), round(height * scale)
            if min(shape) < self.model.multiple:  # for a narrow image
                break
            if scale < 1:
                with clock.phase("preprocess"):
                    level = cv2.resize(level, shape, interpolation=cv2.INTER_LINEAR)
            if scale - 0.001 <= min(rule["max_scale"], rule["max_size"] / longest):
                found.append(self._level(level, (width, height), scale, clock))
            scale /= 2**0.25
        return self._thinned(joined(found, (width, height)).top(int(rule["top_k"])))

    def _thinned(self, found: Features) -> Features:
        """Apply the requested suppression if the decoder of the network has none."""
        if not self.nms or "nms_radius" in self.settings:
            return found
        return found.take(peaks.thin(found.keypoints, found.scores, (found.size[1], found.size[0]), self.nms))

    def _level(self, level: Array, size: tuple[int, int], scale: float, clock: Clock) -> Features:
        with clock.phase("preprocess"):
            tensor = self.tensor(level)
        with clock.phase("network"):
            maps = self.session.run(tensor)
        with clock.phase("postprocess"), blaming(self.artifact.path):
            keypoints, scores, descriptors = self.model.decode(_first(maps), **self.settings)
            factor = np.array([size[0] / level.shape[1], size[1] / level.shape[0]], np.float32)
            found = checked(keypoints * self._stretched(level, tensor) * factor, scores, descriptors, size)
            diameter = np.full(len(found), 32 / scale, np.float32)  # px, size of the support at scale 1
            return Features(found.keypoints, found.scores, found.descriptors, size, diameter)

    def fit(self, image: Array) -> Array:
        """Convert an image to the network's colours, and resize it if requested or if the input size is fixed; uint8.

        Floats stay floats.

        Raises:
            BadInput: see `lf.data.images.check`.
        """
        image = self._colour(image)
        wanted = self.resize or self.artifact.card.size
        if wanted is None or self.takes((image.shape[0], image.shape[1]), wanted):
            return image
        shrinking = wanted[0] * wanted[1] < image.shape[0] * image.shape[1]
        how = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
        return cv2.resize(image, wanted[::-1], interpolation=how)

    def takes(self, size: tuple[int, int], wanted: tuple[int, int]) -> bool:
        """Return whether a network with the input size `wanted` takes an image of `size` (H, W) without resizing."""
        return size == wanted or (self.model.prepare is not None and self.model.fitted(size) == wanted)

    def tensor(self, image: Array) -> Array:
        """Convert the result of `fit`, uint8 or floats from 0 to 1, to (1, C, H, W) float32, by `Model.prepare`.

        Without `Model.prepare`, the image is cropped to the network's multiple.
        """
        step = self.model.multiple
        height, width = (side - side % step for side in image.shape[:2])
        if not (self.model.pads or (height and width)):
            raise BadInput(
                f"an image of {image.shape[1]}x{image.shape[0]} is too small; expected at least {step}x{step}"
            )
        if prepare := self.model.prepare:
            return prepare(image / np.float32(255) if image.dtype == np.uint8 else image)[None]
        planes = np.moveaxis(image[:height, :width].reshape(height, width, -1), 2, 0)[None]
        if image.dtype == np.uint8:
            return np.divide(planes, np.float32(255), dtype=np.float32, order="C")
        return np.ascontiguousarray(planes, np.float32)

    def _colour(self, image: Array) -> Array:
        """Return the checked image in the network's colours; all images pass here."""
        image = check(image)
        if self.model.colours == 1 and image.ndim == 3:
            return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self.model.colours == 3 and image.ndim == 2:
            return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        return image


def restore(keypoints: Array, scale: Array) -> Array:
    """Map keypoints (N, 2) of a resized image back to the original, `scale` = original / resized for x and y.

    Pixel centres are integers and areas are aligned: (k + 0.5) * s - 0.5.
    """
    return (keypoints + np.float32(0.5)) * scale - np.float32(0.5)


def _first(maps: dict[str, Array]) -> dict[str, Array]:
    return {name: value[0] for name, value in maps.items()}


def checked(keypoints: Array, scores: Array, descriptors: Array, size: tuple[int, int]) -> Features:
    """Make the features of a network after checking them.

    Raises:
        BadModel: a value is not finite, or a descriptor is not of unit length.
    """
    features = Features(keypoints, scores, descriptors, size)
    length = np.sqrt(np.einsum("nd,nd->n", features.descriptors, features.descriptors))
    if len(length) and not np.allclose(length, 1, atol=1e-3):
        raise BadModel(f"a descriptor has length {float(length[np.abs(length - 1).argmax()]):.3g}, expected 1")
    return features
