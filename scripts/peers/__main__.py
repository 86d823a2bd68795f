"""Time lf beside other programs with the same weights: `python -m scripts.peers`.

python -m scripts.peers FILE[@BACKEND] ... --photos DIR [--superpoint FILE.pth] [--aliked FILE.pth]

Everything runs in one process, with one thread, from the image in memory to points, scores and descriptors, and with
its own preparation and decode. In a turn each takes one photo of 480x640, in another order each time; ratios are within
turns. Before that, every peer must find what the float network of lf finds with the same weights.

It needs packages that lf does not: pip install transformers kornia. Times are the processor's.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np

from lf.benchmarks.report.tables import markdown
from lf.core import Array, LfError
from lf.core.machine import cpu
from lf.data import images
from lf.data.warps import fit
from scripts import turns
from scripts.peers import aliked, ours, superpoint
from scripts.peers.peer import Peer, Shared, verify

SIZE = (480, 640)  # H, W
PHOTOS = 8
WARM_UP = 2  # turns that do not count


def pictures(folder: Path) -> list[Array]:
    """Photos of a folder, cut and resized to SIZE."""
    return [fit(images.read(path), SIZE) for path in images.list_images(folder, limit=PHOTOS)]


def measure(peers: Sequence[Peer], photos: Sequence[Array], count: int) -> tuple[Array, Array]:
    """(turns, peers) ms of the processor, and how many points there were."""
    rng, times, points = np.random.default_rng(0), [], []
    for turn in range(WARM_UP + count):
        photo, row, found = photos[turn % len(photos)], np.zeros(len(peers)), np.zeros(len(peers))
        for index in rng.permutation(len(peers)):
            row[index] = turns.milliseconds(lambda: found.__setitem__(index, len(peers[index].extract(photo))))  # noqa: B023
        times.append(row)
        points.append(found)
    return np.array(times[WARM_UP:]), np.array(points[WARM_UP:])


def costs(peers: Sequence[Peer], times: Array, points: Array, checks: Mapping[str, Shared | None]) -> str:
    """A line for each: what it is, points, ms, ratio to the first, what it shares with lf's float path."""
    rows = []
    for index, peer in enumerate(peers):
        check = checks[peer.name]
        rows.append(
            [
                peer.name,
                peer.library,
                peer.engine,
                f"{np.median(points[:, index]):.0f}",
                f"{np.median(times[:, index]):.1f}",
                turns.times(times[:, index], times[:, 0]),
                f"{check.of_ours:.3f}, {check.of_theirs:.3f}, {check.cosine:.4f}" if check else "-",
            ]
        )
    head = ["program", "library", "engine", "points", "ms", f"time / {peers[0].name}", "points of lf, own, cosine"]
    return markdown(head, rows)


def faster(peers: Sequence[Peer], times: Array) -> str:
    """Format the time of each peer relative to each form of lf; lf's PyTorch networks are listed as peers."""
    own = [index for index, peer in enumerate(peers) if peer.kind == "lf" and index]
    others = [index for index, peer in enumerate(peers) if peer.kind != "lf" or peer.engine.startswith("torch")]
    rows = [
        [peers[other].name, peers[other].engine, *(turns.times(times[:, other], times[:, mine]) for mine in own)]
        for other in others
    ]
    return markdown(["time of", "engine", *(f"/ {peers[i].name}, {peers[i].engine}" for i in own)], rows)


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("files", nargs="*", metavar="FILE[@BACKEND]")
    options.add_argument("--photos", type=Path, required=True)
    options.add_argument("--superpoint", help="public checkpoint")
    options.add_argument("--aliked", help="public checkpoint")
    options.add_argument("--points", type=int, default=1000)
    options.add_argument("--turns", type=int, default=30)
    given = options.parse_args()
    try:
        print(compare(given))
    except LfError as error:
        print(f"lf: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def compare(given: argparse.Namespace) -> str:
    """Open, verify, time."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    photos = pictures(given.photos)
    peers = [ours.opened(words, given.points) for words in ("sift-1000", *given.files)]
    if given.superpoint:
        peers += superpoint.peers(given.superpoint, given.points, SIZE)
    if given.aliked:
        peers += aliked.peers(given.aliked, given.points)
    checks = {peer.name: verify(peer, photos) for peer in peers}
    times, points = measure(peers, photos, given.turns)
    name, flags = cpu()
    head = (
        f"{name} ({', '.join(flags)}), load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, "
        f"{len(photos)} photos of {SIZE[0]}x{SIZE[1]}, {given.turns} turns, one thread"
    )
    return "\n\n".join([head, costs(peers, times, points, checks), faster(peers, times)])


if __name__ == "__main__":
    main()
