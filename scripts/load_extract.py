"""Load of lf extract: memory and throughput over many small images, and the time to resume after a kill.

python -m scripts.load_extract MODEL [--images 100000] [--workers 1]

The images are hard links of 100 drawn ones of 64x48. It is killed in the middle and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

DRAWN, SIDE = 100, (48, 64)
EVERY = 2.0  # s between samples


def make(folder: Path, count: int) -> None:
    """Fill a folder with `count` links, a thousand in each subfolder; a file system may limit links of one file."""
    rng, drawn = np.random.default_rng(0), folder / ".drawn"
    drawn.mkdir(parents=True)
    for index in range(DRAWN):
        blocks = rng.integers(0, 256, (SIDE[0] // 8, SIDE[1] // 8), dtype=np.uint8)
        cv2.imwrite(str(drawn / f"{index}.png"), cv2.resize(blocks, SIDE[::-1], interpolation=cv2.INTER_NEAREST))
    for index in range(count):
        inner = folder / f"{index // 1000:04d}"
        if index % 1000 == 0:
            inner.mkdir()
        os.link(drawn / f"{index % DRAWN}.png", inner / f"{index:07d}.png")


def done(out: Path) -> int:
    """Count the files of features."""
    return sum(entry.name.endswith(".npz") for inner in out.glob("[0-9]*") for entry in os.scandir(inner))


def resident(pid: int) -> float:
    """Resident memory of a process, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def spent(pid: int) -> float:
    """Processor time of a process so far, s."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def samples(process: subprocess.Popen[bytes], out: Path, until: int) -> Iterator[tuple[float, int, float, float]]:
    """(s, features, MiB, s of processor time) until there are so many features, or the process ends."""
    began = time.monotonic()
    while process.poll() is None:
        try:
            found = time.monotonic() - began, done(out), resident(process.pid), spent(process.pid)
        except (OSError, ValueError):
            return
        yield found
        if found[1] >= until:
            return
        time.sleep(EVERY)


def main() -> None:
    """Run twice, with a kill between; print one JSON object."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("model")
    options.add_argument("--images", type=int, default=100_000)
    options.add_argument("--workers", type=int, default=1)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="lf-load-") as place:
        pictures, out = Path(place, "pictures"), Path(place, "out")
        make(pictures, given.images)
        words = [sys.executable, "-m", "lf", "extract", given.model, str(pictures), "--out", str(out)]
        words += ["--workers", str(given.workers), "--top-k", "50"]
        first = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        curve = [*samples(first, out, given.images // 2)]
        first.send_signal(signal.SIGKILL)
        first.wait()
        there, begun = done(out), time.monotonic()
        second = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while done(out) == there and second.poll() is None:
            time.sleep(0.1)
        restart = {"restart_s": round(time.monotonic() - begun, 1), "restart_cpu_s": round(spent(second.pid), 1)}
        rest = [*samples(second, out, given.images)]
        code = second.wait()
        report = {"code": code, "features": done(out), "killed_at": there, **restart}
    print(json.dumps({**report, "first": judged(curve), "second": judged(rest)}, indent=1))


def judged(curve: list[tuple[float, int, float, float]]) -> dict[str, object]:
    """Memory and throughput of the first and of the last tenth of a process, by its features."""
    low, high = curve[0][1], curve[-1][1]
    tenths = [
        [row for row in curve if low + (high - low) * i / 10 <= row[1] <= low + (high - low) * (i + 1) / 10]
        for i in range(10)
    ]
    pace = [
        round((part[-1][1] - part[0][1]) / max(part[-1][3] - part[0][3], 1e-9), 1) for part in tenths if len(part) > 1
    ]
    memory = [round(sum(row[2] for row in part) / len(part), 1) for part in tenths if part]
    clock = round((high - low) / max(curve[-1][0] - curve[0][0], 1e-9), 1)
    return {"features": high - low, "images_per_s": clock, "images_per_cpu_s": pace, "resident_mib": memory}


if __name__ == "__main__":
    main()
