"""`auto`: the backend that a short measurement on this machine finds fastest for a model file, within equal output.

The measurement takes about a second for each backend and is stored in the user's cache folder, see `lf.core.cache`: one
record for each processor, number of threads, model file, input size and set of engine versions. `auto` is the default
of `lf extract`, `lf match`, `lf live` and `lf.load`; `lf bench`, `lf time` and gates use it only on request.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import cv2
import numpy as np

from lf import __version__
from lf.core import Array, Artifact, LfError, Session, cache, console, files, ledger, one_line
from lf.core.machine import cpu, ratios_of_turns
from lf.data.images import check
from lf.extraction import agreement
from lf.extraction.extractor import Extractor
from lf.extraction.store import backend_for
from lf.models import row_of
from lf.models.resolve import as_typed
from lf.runtimes import BACKENDS, backends_for

AUTO = "auto"
TURNS, SECONDS, LEAST = 9, 2.0, 3  # turns of a measurement: at most TURNS; at most LEAST after SECONDS
GAIN = 0.97  # another backend is chosen if it takes at most this share of the time of the first
SLOW = 2.0  # a backend this many times slower in its second run is not timed further
MOST = 480 * 640  # pixels; a larger image is measured at this size, since the ratio of engines changes little above
FOLDER = "backends"  # of the records, in the cache folder


@dataclass(frozen=True)
class Choice:
    """The backend that `auto` chose for a file, with the measured ratios.

    Attributes:
        file: name of the model file.
        backend: the chosen row of BACKENDS.
        ratios: backend -> time relative to the first backend, the median over turns; the first has 1. Empty if only one
            backend can run the file.
        left_out: backend -> reason why it was not compared.
        size: (height, width) of the measured image, or None.
        threads: number of threads of each engine.
        measured: day of the measurement, such as 2026-11-29.
        fresh: True if it was measured now, False if read from the cache.
        kept: reason why the measurement could not be stored; "" if it was.
    """

    file: str
    backend: str
    ratios: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    threads: int = 1
    measured: str = ""
    fresh: bool = False
    kept: str = ""

    def __str__(self) -> str:
        """Format the backend and the deciding ratio as one line."""
        if not self.ratios or not self.size:
            return f"{self.backend} runs {self.file}: no other backend for such files is installed"
        first, *others = self.ratios
        if self.backend != first:
            why = f"{self.ratios[self.backend]:.2f} times the time of {first}, equal output"
        elif others:
            best = min(others, key=self.ratios.__getitem__)
            why = f"none is clearly faster, {best} takes {self.ratios[best]:.2f} times its time"
        else:
            why = f"no other could be compared ({', '.join(self.left_out)}: see lf doctor)"
        height, width = self.size
        place = f"{height}x{width}, {self.threads} thread{'s' * (self.threads > 1)}"
        when = "measured now" if self.fresh else f"measured on {self.measured}"
        return f"{self.backend} runs {self.file}: {why} ({when}, {place}{self.kept and f'; not kept: {self.kept}'})"


def choose(artifact: Artifact, threads: int, picture: Callable[[], Array | None]) -> Choice:
    """Choose the fastest backend with equal output; it is measured once, then read from the cache.

    Args:
        artifact: the model file.
        threads: of each engine.
        picture: returns an image for `Extractor`, of the size to extract; called only if there is a choice. If it
            returns None, the first backend is chosen.

    Raises:
        LfError: the first backend cannot run the file, see `Extractor`; there is no fallback.
    """
    names = candidates(artifact)
    whole = picture() if len(names) > 1 else None
    if whole is None:
        return Choice(artifact.path.name, names[0])
    shown, size = _small(artifact, whole)
    record = _record(artifact, names, threads, size)
    if record.begun and (known := _read(record.content, artifact, names)):
        return known
    ratios, left_out = _measure(artifact, names, threads, shown)
    return _keep(record, artifact, ratios, left_out, threads, size)


def keep(artifact: Artifact, threads: int, picture: Array, times: Mapping[str, Sequence[float]]) -> Choice | None:
    """Write the record for `choose` from times measured in turns, as in `lf tune`.

    Args:
        artifact: the model file.
        threads: of each engine.
        picture: an image of the measured size.
        times: backend -> times of each turn, in any unit; a candidate without times is left out.

    Returns:
        The choice, or None if the first candidate or all others have no times.
    """
    names = candidates(artifact)
    timed = [name for name in names if times.get(name)]
    if len(timed) < 2 or timed[0] != names[0]:
        return None
    shown, size = _small(artifact, picture)
    opened, left_out = _equal(artifact, timed, threads, shown)
    left_out |= {name: "lf tune did not time it" for name in names if name not in timed}
    ratios = {name: float(np.median(ratios_of_turns(times[name], times[names[0]]))) for name in opened}
    return _keep(_record(artifact, names, threads, size), artifact, ratios, left_out, threads, size)


def candidates(artifact: Artifact) -> list[str]:
    """Return the backends that `auto` compares: installed, not only on request, and able to run the network."""
    unfit = row_of(artifact.card).not_on
    fits = [name for name in backends_for(artifact.path) if BACKENDS[name].installed and name not in unfit]
    first = backend_for(artifact)
    return [first, *(name for name in fits if name != first and not BACKENDS[name].asked)]


def records() -> list[Choice]:
    """Read the choices in the cache folder, the latest first; damaged records are skipped."""
    found = []
    for path in sorted((cache.folder() / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(LfError, KeyError, TypeError, ValueError, AttributeError):
            found.append(_parse(files.read_json(path, "a record of `auto`")))
    return found


def _small(artifact: Artifact, picture: Array) -> tuple[Array, tuple[int, int]]:
    """Return the image to measure, of at most MOST pixels, and the input size (H, W) of the network."""
    picture = check(picture)
    height, width = picture.shape[:2]
    if artifact.card.size:
        return picture, artifact.card.size
    factor = math.sqrt(MOST / (height * width))
    if factor < 1:
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return picture, (picture.shape[0], picture.shape[1])


def _record(artifact: Artifact, names: Sequence[str], threads: int, size: tuple[int, int]) -> ledger.Ledger:
    """Return the path of the record of a choice between `names` for a file.

    Sizes count by their number of pixels, rounded to a power of 2: the ratio of two engines changes little within one.
    """
    processor, flags = cpu()
    identity = {
        "processor": processor,
        "instructions": flags,
        "threads": threads,
        "file": artifact.sha256,
        "pixels": 2 ** round(math.log2(size[0] * size[1])),
        "engines": {name: BACKENDS[name].version for name in names},
        "lf": __version__,
    }
    path = cache.folder() / FOLDER / f"{ledger.key(identity)}.json"
    return ledger.resume(path, identity, "restart")


def _read(content: Mapping[str, Any], artifact: Artifact, names: Sequence[str]) -> Choice | None:
    """Read the choice in a record; None if it is damaged."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        found = _parse({**content, "file": artifact.path.name})
        return found if found.backend in names else None
    return None


def _parse(content: Mapping[str, Any]) -> Choice:
    height, width = content["size"]
    return Choice(
        file=str(content["file"]),
        backend=str(content["backend"]),
        ratios={str(name): float(ratio) for name, ratio in content["ratios"].items()},
        left_out={str(name): str(why) for name, why in content["left_out"].items()},
        size=(int(height), int(width)),
        threads=int(content["threads"]),
        measured=str(content["measured"]),
    )


def _keep(
    record: ledger.Ledger,
    artifact: Artifact,
    ratios: Mapping[str, float],
    left_out: Mapping[str, str],
    threads: int,
    size: tuple[int, int],
) -> Choice:
    """Choose by the ratios, and write the record. A cache folder that cannot be written is not an error."""
    first = next(iter(ratios))
    best = min(ratios, key=ratios.__getitem__)
    chosen = best if ratios[best] <= GAIN else first
    day, why = date.today().isoformat(), ""
    content = {
        "file": artifact.path.name,
        "backend": chosen,
        "ratios": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "left_out": dict(left_out),
        "size": list(size),
        "threads": threads,
        "measured": day,
    }
    try:
        record.write(**content)
    except LfError as error:
        why = str(error)
    return Choice(artifact.path.name, chosen, ratios, left_out, size, threads, day, fresh=True, kept=why)


def _measure(
    artifact: Artifact, names: Sequence[str], threads: int, picture: Array
) -> tuple[dict[str, float], dict[str, str]]:
    """Return median ratios of times to the first backend, and the reasons why others were left out."""
    opened, left_out = _equal(artifact, names, threads, picture)
    own = opened[names[0]]
    tensor = own.tensor(own.fit(picture))
    second = {name: _seconds(extractor.session, tensor) for name, extractor in opened.items()}
    for name in [*opened][1:]:
        if second[name] > SLOW * second[names[0]]:
            left_out[name] = f"takes {second[name] / second[names[0]]:.1f} times the time of {names[0]}"
            del opened[name]
    times: dict[str, list[float]] = {name: [] for name in opened}
    begun = time.perf_counter()
    while len(times[names[0]]) < (TURNS if time.perf_counter() - begun < SECONDS else LEAST) and len(opened) > 1:
        for name, extractor in opened.items():
            times[name].append(_seconds(extractor.session, tensor))
    if len(opened) == 1:
        return {names[0]: 1.0}, left_out
    first = times[names[0]]
    return {name: float(np.median(ratios_of_turns(taken, first))) for name, taken in times.items()}, left_out


def _equal(
    artifact: Artifact, names: Sequence[str], threads: int, picture: Array
) -> tuple[dict[str, Extractor], dict[str, str]]:
    """Open the backends that agree with the first on an image; also return the reasons why others are left out."""
    own = Extractor(artifact, names[0], threads)
    tensor = own.tensor(own.fit(picture))
    expected, opened, left_out = agreement.look(own, tensor), {names[0]: own}, dict[str, str]()
    threads_of_opencv = cv2.getNumThreads()  # a setting of the process, which a backend may change
    for name in names[1:]:
        try:
            other = Extractor(artifact, name, threads)
            found = agreement.look(other, tensor)
            why = agreement.differences(expected, found, artifact.card.scheme != "fp32")
        except Exception as error:  # the engine was not requested by name: leave it out; lf doctor gives the reason
            why = one_line(error, 300)
        if why:
            left_out[name] = why
        else:
            opened[name] = other
    cv2.setNumThreads(threads_of_opencv)
    return opened, left_out


def _seconds(session: Session, tensor: Array) -> float:
    begun = time.perf_counter()
    session.run(tensor)
    return time.perf_counter() - begun


def named(artifact: Artifact, backend: str, threads: int, picture: Callable[[], Array | None]) -> str:
    """Return the requested backend; for `auto`, choose it, and print it with its ratio on stderr.

    Raises:
        LfError: see `choose`.
    """
    if backend != AUTO:
        return backend
    return said(choose(artifact, threads, picture), artifact).backend


def said(choice: Choice, artifact: Artifact) -> Choice:
    """Print a choice between backends on stderr; where only torch runs the file, print how to make a faster one."""
    if choice.ratios:
        console.note(f"lf: {choice}")
    elif choice.backend == "torch":
        name = as_typed(artifact.path)
        console.note(f"lf: torch runs {name}; an ONNX file is usually faster: lf export {name}")
    return choice
