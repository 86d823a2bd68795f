"""Network: an opened model file. Its methods are the commands of `lf`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lf.core import Array, Artifact, Card, Features, pick
from lf.core.console import Progress
from lf.core.registry import load_plugins
from lf.extraction import auto, stream
from lf.extraction.extractor import Extractor
from lf.models.resolve import resolve
from lf.runtimes import BACKENDS


def load(source: str | Path | Artifact | Network, backend: str = auto.AUTO, threads: int = 1) -> Network:
    """Open a network.

    Args:
        source: a model file (.onnx, .tflite, .safetensors), a public checkpoint (.pth, .pt, .pth.tar), the name of
            shipped weights or of a baseline (`lf models` lists them), or what another function of `lf` returned.
        backend: the engine, a name that `lf doctor` lists. `auto` chooses the fastest one that gives equal output:
            it is measured on the first image, kept for later runs, and named on stderr; see `Network.choice`.
        threads: threads of the engine.

    Returns:
        The network. The engine is opened when it is first needed.

    Raises:
        LfError: `BadInput` for a file that is missing, damaged or of no known network, `UsageError` for an unknown name
            or a backend that does not run the file, `Unavailable` for an engine that is not installed.

    Example:
        >>> import lf
        >>> lf.load("wren")
        <lf network wren fp32, wren.safetensors>
    """
    load_plugins()
    if isinstance(source, Network):
        return Network(source.artifact, source.backend if backend == auto.AUTO else backend, threads)
    artifact = source if isinstance(source, Artifact) else resolve(source)
    if backend != auto.AUTO:
        pick(BACKENDS, backend, "backend")
    return Network(artifact, backend, threads)


def adopt(
    path: str | Path,
    family: str | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> Network:
    """Adopt an ONNX file of another tool: check it, and write it with a card and in the form of lf.

    Args:
        path: the .onnx file; it does not change.
        family: its network, a name that `lf models` lists, or `features` for any with the decoder in its graph.
        output: the file to write; by default `<name>.adopted.onnx` in the current folder.
        options: `card`, `outputs`, `input`, `size`, `reference`, `images`: see `lf.export.adopt.adopt`.

    Returns:
        The new file. `card.made[-1]` has the findings and the results of the checks.

    Raises:
        UsageError: a property that images do not show; the text says what to add.
        BadInput: not an ONNX file, or it has a card already, fits no head, or gives no points.
        GateFailed: its keypoints fail a check; nothing is written.
    """
    from lf.export.adopt import adopt as run

    load_plugins()
    given = _paths(options)
    if (reference := given.pop("reference", None)) is not None:
        given["reference"] = load(reference).artifact
    return load(run(Path(path), family, _path(output), **given))


class Network:
    """A model file in an engine.

    A network can be used from several threads at once: calls of `extract` take turns.

    Attributes:
        artifact: the file and its card.
        backend: requested name of the engine, or `auto`.
        threads: threads of the engine.
        choice: the engine that `auto` chose, and the reason; None before the first image, or for another name.
    """

    def __init__(self, artifact: Artifact, backend: str, threads: int = 1) -> None:
        """Use `lf.load` instead."""
        self.artifact, self.backend, self.threads = artifact, backend, threads
        self.choice: auto.Choice | None = None
        self._opened: Extractor | None = None
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        """Model, scheme and file name."""
        return f"<lf network {self.card.model} {self.card.scheme}, {self.path.name}>"

    @property
    def path(self) -> Path:
        """The model file."""
        return self.artifact.path

    @property
    def card(self) -> Card:
        """The card of the file: model, scheme, input, outputs, and the steps that made it."""
        return self.artifact.card

    def extract(self, image: Array | str | Path, top_k: int | None = None) -> Features:
        """Extract the keypoints and descriptors of an image, with the published settings of the network.

        Args:
            image: (H, W) grey or (H, W, 3) RGB, such as the result of `lf.read`, or the path of an image file.
            top_k: number of best keypoints to keep; None keeps all.

        Returns:
            Features, best score first: keypoints (N, 2) float32 in pixels of the image, x then y, pixel centres at
            integers; scores (N,); descriptors (N, D) of unit length.

        Raises:
            BadInput: the image cannot be read, is too small for the network, or its array has an unexpected shape,
                type or range.

        Example:
            >>> import lf, numpy as np
            >>> image = np.zeros((120, 160), np.uint8)
            >>> image[40:80, 60:100] = 255
            >>> features = lf.load("wren").extract(image, top_k=4)
            >>> features.keypoints.shape, features.descriptors.shape
            ((4, 2), (4, 64))
        """
        if isinstance(image, str | Path):
            image = read(image)
        with self._turn:
            if self._opened is None:
                self._opened = Extractor(self.artifact, self._engine(image), self.threads)
            return stream.published(self._opened, image, top_k)

    def _engine(self, image: Array) -> str:
        """Return the backend to open; for `auto` the fastest on this image, printed on stderr."""
        if self.backend != auto.AUTO:
            return self.backend
        self.choice = auto.said(auto.choose(self.artifact, self.threads, lambda: image), self.artifact)
        return self.choice.backend

    def export(self, to: str = "onnx", output: str | Path | None = None, **options: Any) -> Network:
        """Convert the network to another format without changing its results.

        Args:
            to: the format, a name that `lf export --help` lists.
            output: the file to write; by default the name of this file with the suffix of the format, in the current
                folder.
            options: `size`, `opset`, `cut`, `refine`, `top_k`, `half`, `images`: see `lf.export.export`.

        Returns:
            The new file, checked against this one before it was written.

        Raises:
            UsageError: an unknown format, or an option that does not fit it.
            GateFailed: the new file computes other numbers than this one; nothing is written.
        """
        from lf.export import export

        return load(export(self.artifact, to, _path(output), **_paths(options)))

    def quantize(
        self,
        scheme: str = "w8a8",
        images: str | Path | None = None,
        output: str | Path | None = None,
        progress: Progress = lambda done, total, text: None,
        **options: Any,
    ) -> Network:
        """Quantize this float network.

        Args:
            scheme: number format, a name that `lf quantize --help` lists.
            images: folder of calibration images that are in no benchmark.
            output: the file to write; by default the name of this file with the scheme, in the current folder.
            progress: called with (done, total, text) for every image and layer.
            options: `calibration`, `limit`, `seed`, `exclude`, `bits`, `rounding`, `writer`, `size`: see
                `lf.quantize.quantize`.

        Returns:
            The quantized network. Its warnings are in `card.made[-1].warnings`.

        Raises:
            UsageError: an unknown scheme, or no calibration images.
            BadInput: no usable image, or images of a benchmark.
            LfError: the result gives non-finite values; nothing is written.
        """
        from lf.quantize import quantize

        return load(quantize(self.artifact, scheme, _path(images), _path(output), progress=progress, **_paths(options)))


def read(path: str | Path) -> Array:
    """Read an image file.

    Args:
        path: PNG, JPEG, WebP, BMP, TIFF, PGM or PPM, 8 or 16 bits per channel.

    Returns:
        (H, W, 3) uint8 RGB in stored orientation; 16-bit values are scaled to 8 bits.

    Raises:
        BadInput: the file is missing, damaged, too large or too small, or carries a rotation tag.
    """
    from lf.data import images

    return images.read(Path(path))


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert folders among the options to paths."""
    folders = ("images", "exclude", "card")
    return {name: Path(value) if name in folders and value is not None else value for name, value in options.items()}
