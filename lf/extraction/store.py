"""Write features of many images in a layout of another tool; resume interrupted runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from lf.core import Artifact, BadInput, UsageError, files, ledger, pick
from lf.core.fingerprint import versions
from lf.data import Picture, images
from lf.data.layouts import LAYOUTS, Store
from lf.extraction import segmentation
from lf.extraction.extractor import Extractor
from lf.extraction.stream import stream
from lf.models import SEGMENTATION
from lf.runtimes import BACKENDS, backends_for

Progress = Callable[[int, int, str], None]
Item = TypeVar("Item")
WHOLE = (0, 1)  # the only shard


@dataclass
class Tally:
    """written: number of images extracted now. kept: number extracted earlier. failed: image -> reason."""

    written: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def find(paths: Sequence[Path]) -> dict[str, Path]:
    """Find image files by name: the path inside a given folder, or the file name of a given file.

    Raises:
        BadInput: a path that does not exist, or a folder without images.
        UsageError: two images with the same name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise BadInput(f"{path}: no such file or folder; expected images or folders of images")
        inside = {p.relative_to(path).as_posix(): p for p in images.list_images(path)} if path.is_dir() else {}
        for name, file in (inside or {path.name: path}).items():
            if name in found and found[name] != file:
                raise UsageError(f"{found[name]} and {file} would both be {name}; give the folder that holds both")
            found[name] = file
    return found


def share(found: Mapping[str, Item], shard: tuple[int, int]) -> dict[str, Item]:
    """Return the items of shard i of n, counted from 0: every n-th item, beginning with the i-th.

    Raises:
        UsageError: there is no such shard.
    """
    index, count = shard
    if not 0 <= index < count:
        raise UsageError(f"`shard={index}/{count}`: expected I/N with I from 0 to N - 1, for example 0/{max(count, 1)}")
    return dict(islice(found.items(), index, None, count))


def extract_images(
    extractor: Extractor,
    found: Mapping[str, Path] | Mapping[str, Picture],
    out: Path,
    layout: str,
    top_k: int | None = None,
    progress: Progress = lambda done, total, text: None,
    *,
    workers: int = 1,
    shard: tuple[int, int] = WHOLE,
) -> Tally:
    """Extract the images that have no features yet. Unreadable images are skipped and counted.

    With `extractor.segmentation` the classes of image NAME go to `out/NAME.seg.png`. Files are written one after the
    other, in the order of the images, also with several workers. In a layout with one file for all, each shard writes
    its own file, see `shard_file`; a run over all images merges them.

    Args:
        extractor: the opened model.
        found: name -> image file, see `find`, or image; for a shard, its `share`.
        out: the folder of the features.
        layout: a row of LAYOUTS with a file for each image, or one file for all.
        top_k: number of best keypoints to keep.
        progress: called with (done, total, name).
        workers: number of images in parallel, see `stream`.
        shard: (i, n): shard i of n, counted from 0.

    Raises:
        UsageError: unknown layout, an incomplete shard, or see `claim`.
        Unavailable: the layout needs a package that is not installed.
        BadModel: the network's maps are broken.
    """
    opened = pick({name: row.open for name, row in LAYOUTS.items() if row.open}, layout, "layout of single images")
    if out.is_file() or (out.suffix and out.suffix in {row.single for row in LAYOUTS.values()}):
        raise UsageError(f"{out}: expected a folder; the file of all images is made inside of it")
    whole, apart = opened(out), in_one_file(layout) and shard != WHOLE
    with opened(shard_file(out, shard, layout)) if apart else whole as store:
        note = claim(out, layout, extractor, top_k, map(store.has, found))
        todo = [name for name in found if not (store.has(name) or (apart and whole.has(name)))]
        there = _of_shards(out, layout, found, todo) if in_one_file(layout) and not apart else {}
        tally = Tally(kept=len(found) - len(todo))
        missing = (found[name] for name in todo if name not in there)
        with files.taken_back(note), closing(stream(extractor, missing, top_k, workers)) as results:
            for index, name in enumerate(todo, tally.kept):
                progress(index, len(found), name)
                result = there[name].read(name, (0, 0)) if name in there else next(results)
                if isinstance(result, BadInput):
                    tally.failed[name] = str(result)
                    continue
                if result.segmentation:  # before the features, which mark an image as done
                    shown, card = result.segmentation, extractor.artifact.card
                    segmentation.write(out / f"{name}{segmentation.SUFFIX}", shown, result.size[::-1], card)
                store.write(name, result)
                tally.written += 1
    progress(len(found), len(found), "")
    return tally


def in_one_file(layout: str) -> bool:
    """Return whether a layout has one file for all images, which only one run at a time can write."""
    return bool(LAYOUTS[layout].single)


def shard_file(out: Path, shard: tuple[int, int], layout: str) -> Path:
    """Return the file of a shard, in a layout with one file for all images."""
    return out / "shards" / f"{shard[0]}-of-{shard[1]}{LAYOUTS[layout].single}"


def _of_shards(out: Path, layout: str, found: Iterable[str], todo: Collection[str]) -> dict[str, Store]:
    """Return for each file of a shard in `out` its images.

    Raises:
        UsageError: a shard is incomplete.
    """
    row, folder = LAYOUTS[layout], shard_file(out, WHOLE, layout).parent
    for part in sorted(folder.glob(f"*-of-*{row.single}.part")):
        index, _, count = part.name.partition(".")[0].partition("-of-")
        raise UsageError(f"{part}: this shard is not done; run it again with `shard={index}/{count}`, or delete it")
    there: dict[str, Store] = {}
    names, wanted = [*found], {*todo}
    for path in sorted(folder.glob(f"*-of-*{row.single}")):
        index, _, count = path.stem.partition("-of-")
        if row.open and index.isdecimal() and count.isdecimal() and int(index) < int(count):
            store = row.open(path)
            there.update(
                {name: store for name in names[int(index) :: int(count)] if name in wanted and store.has(name)}
            )
    return there


def backend_for(artifact: Artifact) -> str:
    """Return the first installed row of BACKENDS that runs the file; if none is installed, the first, for its error.

    Raises:
        UsageError: no backend runs such files.
    """
    fits = backends_for(artifact.path)
    if not fits:
        raise UsageError(f"{artifact.path}: no backend runs it; lf export makes files that run")
    return next((name for name in fits if BACKENDS[name].installed), fits[0])


def backend_of(out: Path, layout: str) -> str | None:
    """Return the backend of the features in `out`, as recorded by `claim`; None without a record."""
    path = _note(out, layout)
    try:
        data = files.read_json(path, "what `lf extract` wrote") if path.is_file() else {}
    except BadInput:  # `claim` reports it
        return None
    made = data.get("backend") if isinstance(data, dict) else None
    return made if isinstance(made, str) else None


def _note(out: Path, layout: str) -> Path:
    return out / f"lf-extract.{layout}.json"


def claim(
    out: Path,
    layout: str,
    extractor: Extractor,
    top_k: int | None,
    taken: Iterable[bool],
    by: str = __name__,
    **more: Any,
) -> Path:
    """Record in `out` the settings of its features, or check that the recorded settings are the same.

    Args:
        out: the folder of the features.
        layout: layout of the features.
        extractor: the opened model.
        top_k: see `extract_images`.
        taken: whether `out` already has features, for each name; used only without a record.
        by: the module that makes the features.
        more: other settings that features depend on; JSON.

    Returns:
        The file of the record.

    Raises:
        UsageError: the features in `out` have other settings.
    """
    artifact, info = extractor.artifact, extractor.session.info
    made = {
        "model": artifact.card.model,
        "sha256": artifact.sha256,
        "keypoints": extractor.keypoints and extractor.keypoints.artifact.card.model,
        "engine": [info.engine, info.version, info.provider],
        "settings": dict(extractor.settings),
        "top_k": top_k,
        **versions(by),
        **more,
    }
    if extractor.segmentation:
        made["maps"] = [SEGMENTATION]
    path, remedy = _note(out, layout), f"choose another `out`, or delete its features: rm -r {out}"
    found = ledger.resume(path, made, work=out, remedy=remedy)
    if not found.begun and any(taken):  # another shard may have begun meanwhile
        found = ledger.resume(path, made, work=out, remedy=remedy)
        if not found.begun:
            raise UsageError(f"{out}: has features that lf extract did not make; choose another `out` or delete them")
    if not found.begun:
        found.write(backend=extractor.backend)
    return path
