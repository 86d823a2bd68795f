"""Many images -> feature files in a layout that other tools read; a run that was interrupted goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lf import files
from lf.core import Array, Artifact, BadInput, Features, UsageError, pick
from lf.data import images
from lf.data.layouts import LAYOUTS
from lf.runtimes import engines
from lf.runtimes.extract import Extractor

Progress = Callable[[int, int, str], None]


@dataclass
class Tally:
    """written: features of so many were extracted. kept: of so many they were there. failed: image -> why."""

    written: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def find(paths: Sequence[Path]) -> dict[str, Path]:
    """Name -> file of images: those of a folder are named by their path inside of it, others by their file name.

    Raises:
        BadInput: a folder without images.
        UsageError: two images of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inside = {p.relative_to(path).as_posix(): p for p in images.list_images(path)} if path.is_dir() else {}
        for name, file in (inside or {path.name: path}).items():
            if name in found and found[name] != file:
                raise UsageError(f"{found[name]} and {file} would both be {name}; give the folder that holds both")
            found[name] = file
    return found


def extract_images(
    extractor: Extractor,
    paths: Sequence[Path],
    out: Path,
    layout: str,
    top_k: int | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Tally:
    """Extract the images that have no features yet; one that cannot be read is passed over and counted.

    Args:
        extractor: the opened model.
        paths: images and folders of images, see `find`.
        out: the folder of the features.
        layout: a row of LAYOUTS with a file for each image, or one for all.
        top_k: keep the best so many.
        progress: called with (done, total, name).

    Raises:
        UsageError: unknown layout, two images of one name, or see `claim`.
        BadInput: a folder without images.
        Unavailable: the layout needs a package that is not installed.
    """
    opened = pick({name: row.open for name, row in LAYOUTS.items() if row.open}, layout, "layout of single images")
    found, tally = find(paths), Tally()
    if out.is_file() or out.suffix == ".h5":
        raise UsageError(f"{out}: expected a folder; the file of all images is made inside of it")
    with opened(out) as store:
        claim(out, layout, extractor, top_k, map(store.has, found))
        for index, (name, path) in enumerate(found.items()):
            progress(index, len(found), name)
            if store.has(name):
                tally.kept += 1
                continue
            try:
                features = published(extractor, images.read(path))
            except BadInput as error:
                tally.failed[name] = str(error)
                continue
            store.write(name, features.top(top_k))
            tally.written += 1
    progress(len(found), len(found), "")
    return tally


def engine_for(artifact: Artifact) -> str:
    """The first row of BACKENDS that runs such a file.

    Raises:
        UsageError: none does.
    """
    fits = engines(artifact.path)
    if not fits:
        raise UsageError(f"{artifact.path}: no backend runs it; lf export makes files that run")
    return fits[0]


def published(extractor: Extractor, image: Array) -> Features:
    """Extract as the authors do: over their pyramid if they have one and the file takes every size."""
    pyramid = extractor.model.pyramid and extractor.artifact.card.size is None and extractor.keypoints is None
    return extractor.pyramid(image) if pyramid else extractor(image)


def claim(out: Path, layout: str, extractor: Extractor, top_k: int | None, taken: Iterable[bool], **more: Any) -> None:
    """Write down in `out` what its features are made with, or make sure that this is what is written there.

    Args:
        out: the folder of the features.
        layout: of the features.
        extractor: the opened model.
        top_k: see `extract_images`.
        taken: whether `out` already has features, for each name; looked at where nothing is written down.
        more: what else features depend on; JSON.

    Raises:
        UsageError: the features in `out` are made with something else.
    """
    path = out / f"lf-extract.{layout}.json"
    artifact, info = extractor.artifact, extractor.session.info
    made = {
        "model": artifact.card.model,
        "sha256": artifact.sha256,
        "keypoints": extractor.keypoints and extractor.keypoints.artifact.card.model,
        "engine": [info.engine, info.version, info.provider],
        "settings": dict(extractor.settings),
        "top_k": top_k,
        **more,
    }
    before = files.read_json(path, "what lf extract writes") if path.is_file() else None
    if before is None and any(taken):
        raise UsageError(f"{out}: has features that lf extract did not make; choose another --out or delete them")
    if before is not None and before != made:
        other = [k for k in made if not isinstance(before, dict) or before.get(k) != made[k]] or ["settings"]
        raise UsageError(
            f"{out}: its features are made with another {', '.join(other)} (see {path.name}); "
            "choose another --out or delete them"
        )
    if before is None:
        files.write_json(path, made)
