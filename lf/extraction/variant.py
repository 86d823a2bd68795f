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
    """A file in a backend, as it is evaluated.

    Attributes:
        artifact: the file.
        backend: a row of BACKENDS.
        keypoints: a baseline whose points are described, such as `sift`; None for the network's own.
        size: (H, W) to which the picture that the protocol gives is resized for the network, whose points then go back
            to the protocol's pixels; None leaves it as it is.
        nms: px within which the best point suppresses the others; None leaves that to the network.
        refine: how points move off whole pixels, see `lf.models.decode.refined`; None leaves that to the network.
        threshold: smallest score of a point; None leaves that to the network.
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
        """A function that opens this variant from any folder and process."""
        artifact = replace(self.artifact, path=self.artifact.path.absolute())
        return partial(replace(self, artifact=artifact).open, threads)

    def open(self, threads: int = 1) -> Extractor:
        """The extractor of this variant.

        Raises:
            UsageError: an unknown baseline; a threshold that the decode cannot have, see `check_threshold`, or one
                beside a baseline, whose points it does not choose; or see `Extractor`.
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
