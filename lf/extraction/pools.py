"""POOLS: extract features of many images on the machines of a cluster with shared files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from lf.core import LfError, Unavailable
from lf.extraction.cluster import connected, heard, told
from lf.extraction.extractor import Extractor
from lf.extraction.store import Progress, Tally, extract_images, in_one_file, share

SHARDS, IMAGES = 64, 500  # least number of shards, most images in one; the same for all clusters, for resuming


class Actor:
    """An actor with an open session that extracts shards."""

    def __init__(
        self, opener: Callable[[], Extractor], out: Path, layout: str, top_k: int | None, workers: int
    ) -> None:
        self._opener = opener
        self._extractor: Extractor | None = None
        self._rest = out, layout, top_k
        self._workers = workers

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Extract one shard; all values are JSON, because Ray Data expects tables.

        {"shard": [i, n], "found": {name: file}} -> {"shard", "tally", "error"}; either tally or error is empty.
        """
        index, count = json.loads(row["shard"])
        found = {name: Path(path) for name, path in json.loads(row["found"]).items()}
        try:
            self._extractor = self._extractor or self._opener()
            tally = extract_images(self._extractor, found, *self._rest, workers=self._workers, shard=(index, count))
        except LfError as error:
            return {"shard": row["shard"], "tally": "", "error": json.dumps(told(error))}
        return {"shard": row["shard"], "tally": json.dumps(vars(tally)), "error": ""}


def on_ray(
    opener: Callable[[], Extractor],
    found: Mapping[str, Path],
    out: Path,
    layout: str,
    top_k: int | None,
    progress: Progress,
    *,
    cpus: int = 1,
    workers: int = 1,
) -> Tally:
    """Run `extract_images` in shards on actors of Ray Data, as many as the cluster has cores for.

    The cluster is that of RAY_ADDRESS or of this machine; without one, it is started here for the run. It must have the
    model, the images and `out` under the same paths, and the same versions of all packages.

    Args:
        opener: opens the model in an actor; its paths are absolute.
        found: name -> image file.
        out: the folder of the features.
        layout: a row of LAYOUTS with a file for each image, or one file for all.
        top_k: number of best keypoints to keep.
        progress: called with (images done, total, text).
        cpus: number of cores of one worker.
        workers: number of images in parallel in each actor.

    Raises:
        Unavailable: Ray is not installed, its cluster does not answer, or no machine has enough cores.
        LfError: an error of `extract_images`, in an actor or here; or Ray failed.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    count = min(len(found), max(SHARDS, -(-len(found) // IMAGES)))
    rows = [_row(found, (index, count)) for index in range(count)]
    total, tally = len(found), Tally()
    with connected() as ray:
        from ray import data as datasets

        actors = _room(ray, cpus * workers)
        datasets.DataContext.get_current().enable_progress_bars = False
        spread = datasets.from_items(rows, override_num_blocks=count).map(
            cast(Any, Actor),  # Ray's type stubs only accept functions
            fn_constructor_args=(opener, out.absolute(), layout, top_k, workers),
            num_cpus=cpus * workers,
            compute=datasets.ActorPoolStrategy(min_size=1, max_size=min(actors, count)),
        )
        for row in spread.iter_rows():
            _add(tally, row)
            progress(tally.written + tally.kept + len(tally.failed), total, f"shard {row['shard']}")
    if in_one_file(layout):
        return extract_images(opener(), found, out, layout, top_k, progress)
    tally.failed = {name: tally.failed[name] for name in found if name in tally.failed}
    return tally


def _row(found: Mapping[str, Path], shard: tuple[int, int]) -> dict[str, str]:
    own = {name: str(path.absolute()) for name, path in share(found, shard).items()}
    return {"shard": json.dumps(shard), "found": json.dumps(own)}


def _room(ray: Any, cpus: int) -> int:
    """Return the number of actors with `cpus` cores each that fit into the cluster.

    Raises:
        Unavailable: not a single actor fits.
    """
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    room = sum(cores // cpus for cores in machines)
    if not room:
        raise Unavailable(
            f"no machine of the pool has {cpus} cores; they have {', '.join(map(str, machines))}: "
            "ask for fewer `workers` or `threads`"
        )
    return room


def _add(tally: Tally, row: dict[str, str]) -> None:
    if row["error"]:
        raise heard(json.loads(row["error"]))
    part = json.loads(row["tally"])
    tally.written += part["written"]
    tally.kept += part["kept"]
    tally.failed |= part["failed"]


POOLS: dict[str, Callable[..., Tally]] = {"ray": on_ray}
