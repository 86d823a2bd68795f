"""Kill a command at a random moment, run it again, and compare the result with that of one run."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .commands import OUT, content, hidden, prepare, words
from .forked import Ended, Running, run

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}


@dataclass(frozen=True)
class Whole:
    """The result of a command in one run: name -> digest of its files, how long it took, and the bytes on a disk."""

    files: dict[str, str]
    seconds: float
    bytes: int


def stage(place: Path) -> None:
    """Make the inputs of all commands in a folder; in processes of their own."""
    prepare(place)
    ended = run(["export", "wren", "--to", "onnx", "-o", "wren.onnx"], place / "said")
    assert ended.code == 0, ended.said


def whole(name: str, place: Path) -> Whole:
    """Run a command without interruption twice, and check that the results are equal."""
    results = []
    for _ in range(2):
        shutil.rmtree(place / OUT, ignore_errors=True)
        ended = run(words(name), place / "said")
        assert ended.code == 0, ended.said
        results.append(Whole(content(place / OUT), ended.seconds, _bytes(place / OUT)))
    first, second = results
    assert first.files == second.files, f"{name} differs between two runs: {_differing(first.files, second.files)}"
    return second


def moment(name: str, place: Path, reference: Whole, seed: int, number: int) -> str:
    """Kill and resume a command at a random moment; return an error text or "". Seed and number give the moment."""
    rng = Random(f"{seed}/{name}/{number}")
    after, kind = rng.uniform(0, reference.seconds), rng.choice([*SIGNALS])
    shutil.rmtree(place / OUT, ignore_errors=True)
    running = Running(words(name), place / "said")
    ended = running.wait(after)
    if ended is None:
        running.kill(SIGNALS[kind])
        ended = running.end()
    return judged(name, place, reference, ended, kind)


def judged(name: str, place: Path, reference: Whole, ended: Ended, kind: str = "") -> str:
    """Run the command again after something happened; what is wrong then, or nothing."""
    wrong = [] if ended.clean else [f"said {ended.said.strip().splitlines()[-1][:200]}"]
    out = place / OUT
    left = [path.name for path in out.rglob("*") if path.is_file() and hidden(path, out)] if out.exists() else []
    if kind == "TERM" and left:
        wrong.append(f"left {left[0]}")
    again = run(words(name), place / "said")
    if again.code != 0:
        wrong.append(f"again ended with {again.code}: {again.said.strip()[-300:]}")
    elif found := _differing(reference.files, content(out)):
        wrong.append(f"again made other {', '.join(found[:4])}")
    return "; ".join(wrong)


def _bytes(folder: Path) -> int:
    """Bytes that files take in pages of 4096."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(-(-size // 4096) * 4096 for size in sizes)


def _differing(first: dict[str, str], second: dict[str, str]) -> list[str]:
    return sorted(name for name in {**first, **second} if first.get(name) != second.get(name))
