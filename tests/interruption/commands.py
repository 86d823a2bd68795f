"""COMMANDS: those of lf that take hours, on inputs of seconds; and what is compared of what they make."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

OUT = "out"
TIMED = ("time", "seconds", "steps_per_s", "images_per_s", "data_share")  # keys of times of day and of speeds
PLAN = """backend = "ort-cpu"
repeats = 0
schemes = ["w8a8-dynamic"]
[[data]]
name = "drawn"
root = "procedural:2"
protocols = ["kp2d-fixed", "mma"]
[[model]]
file = "wren.onnx"
[[model]]
file = "orb"
schemes = []
"""
TRAIN = ("steps=10", "batch=1", "size=64", "pictures=3", "picture_size=96")
COMMANDS: dict[str, Sequence[str]] = {
    "train": ("train", "wren", *(word for change in TRAIN for word in ("--set", change)), "--save-every", "2"),
    "label": ("label", "superpoint-small", "--photos", "photos", "--warps", "3", "--area", "96x128"),
    "extract": ("extract", "wren.onnx", "photos", "--workers", "1"),
    "sweep": ("sweep", "plan.toml"),
    "search": (
        *("search", "wren.onnx", "--scheme", "w4", "--max-drop", "mma@3=0.2", "--data", "procedural:4"),
        *("--max-evaluations", "4", "-o", "out/best.onnx"),
    ),
    "sfm": ("sfm", "sift", "--data", "posed:scene", "--top-k", "300"),
}


def words(name: str) -> list[str]:
    """The words of a command, which writes to OUT."""
    return [*COMMANDS[name], "--out", OUT]


def prepare(folder: Path) -> None:
    """Pictures, a plan and a drawn scene in a folder; the network is exported by a command."""
    from lf.data.posed import drawn
    from lf.extraction.agreement import drawn as pictures

    cv2.setNumThreads(1)
    (folder / "photos").mkdir()
    for index, picture in enumerate(pictures((96, 128), 8)):
        cv2.imwrite(str(folder / "photos" / f"{index}.png"), picture)
    (folder / "plan.toml").write_text(PLAN)
    (folder / "scene" / "images").mkdir(parents=True)
    lines = []
    for view in drawn.training(3, (240, 320)).views[3:8]:
        cv2.imwrite(str(folder / "scene" / "images" / view.name), view.image.load()[..., ::-1])
        pose = np.eye(4)
        pose[:3] = np.column_stack([view.rotation, view.translation])
        lines.append(" ".join([view.name, *(f"{value:.12g}" for value in (*view.K.ravel(), *pose.ravel()))]))
    (folder / "scene" / "cameras.txt").write_text("\n".join(lines) + "\n")


def content(out: Path) -> dict[str, str]:
    """Return the digest of every file of a result, by name.

    All bytes count but times of day and speeds in JSON, HTML and tables; databases count by their rows, whose place in
    the file is SQLite's. Hidden files are what a kill left of a write.
    """
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and not hidden(path, out))
    return {path.relative_to(out).as_posix(): _digest(path) for path in files}


def hidden(path: Path, out: Path) -> bool:
    """Return whether the name of a file or of one of its folders begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(out).parts)


def _digest(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
        data = json.dumps([_untimed(json.loads(line)) for line in lines]).encode()
    elif path.suffix in (".html", ".md"):
        data = re.sub(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\+00:00)?", b"", data)
    elif path.suffix == ".db":
        with sqlite3.connect(path) as sql:
            data = "\n".join(sql.iterdump()).encode()
    return hashlib.sha256(data).hexdigest()


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(inner) for key, inner in value.items() if key not in TIMED}
    return [_untimed(inner) for inner in value] if isinstance(value, list) else value
