"""Variant: a model file in a backend, for evaluation and timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lf.core import Artifact, UsageError, pick
from lf.extraction.extractor import Extractor
from lf.models import MODELS, check_threshold
from lf.models.resolve import resolve


@dataclass(frozen=True)
class Variant:
    """A file in a backend, with settings of extraction.

    Attributes:
        artifact: the file.
        backend: a row of BACKENDS.
        keypoints: a baseline that detects the points to describe, such as `sift`; None for the network's own.
        size: input size (H, W) of the network; keypoints are mapped back to the protocol's pixels. None keeps the
            protocol's size.
        nms: radius of suppression, px; None leaves it to the network.
        refine: sub-pixel method, see `lf.models.decode.refined`; None leaves it to the network.
        threshold: smallest score of a point; None leaves it to the network.
        segmentation: whether features have the segmentation of their image.
        extraction: `pyramid`, or the name of published settings, see `Model.extractions`; None takes the row's.
    """

    artifact: Artifact
    backend: str
    keypoints: str | None = None
    size: tuple[int, int] | None = None
    nms: int | None = None
    refine: str | None = None
    threshold: float | None = None
    segmentation: bool = False
    extraction: str | None = None

    def opener(self, threads: int = 1) -> Callable[[], Extractor]:
        """Return a function that opens this variant from any folder and process."""
        artifact = replace(self.artifact, path=self.artifact.path.absolute())
        return partial(replace(self, artifact=artifact).open, threads)

    def open(self, threads: int = 1) -> Extractor:
        """Open the extractor of this variant.

        Raises:
            UsageError: an unknown baseline; a threshold that the decoder cannot use, see `check_threshold`, or a
                threshold with a baseline, which it does not affect; or see `Extractor`.
        """
        points, settings = None, dict[str, Any]()
        if self.threshold is not None:
            if self.keypoints:
                asked = f"`threshold={self.threshold:g}`"
                raise UsageError(f"{asked}: the points are those of {self.keypoints}; leave `threshold` out")
            artifact = self.artifact
            settings["threshold"] = check_threshold(self.threshold, artifact.card, str(artifact.path))
        if self.keypoints:
            pick({name: None for name, row in MODELS.items() if not row.module}, self.keypoints, "baseline")
            points = Extractor(resolve(self.keypoints), "opencv", threads, nms=self.nms)
        options = self.size, self.nms, self.refine, self.segmentation, self.extraction
        return Extractor(self.artifact, self.backend, threads, points, *options, **settings)
