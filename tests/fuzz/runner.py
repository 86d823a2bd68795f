"""Run the cases of a parser in a process of its own, which is watched: a hang or a death is a finding, too."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from lf.core import LfError

from .guard import Guard
from .mutate_bytes import BYTES, Mutator

HANG = 20.0  # s of processor time that one file may take
ASLEEP = 6  # times as long it may take by the clock, on a machine that others use, too
START = 300.0  # s for a process to import what it needs and to read the whole files
CEILING = 8 << 30  # bytes of data that a process can ask for: it protects the machine
KEPT = 10  # findings of one parser after which it is left


@dataclass(frozen=True)
class Parser:
    """A parser of foreign bytes.

    Attributes:
        name: in reports.
        make: writes whole files into a folder.
        targets: patterns of the files that are damaged, in that folder.
        read: reads them; the folder is the current one.
        mutators: that know the format; BYTES are used beside them.
        codes: exit codes that a refusal may have.
    """

    name: str
    make: Callable[[Path], object]
    targets: Sequence[str]
    read: Callable[[Path], object]
    mutators: Sequence[Mutator] = ()
    codes: Sequence[int] = (5,)


@dataclass
class Tally:
    """Numbers of files read and refused, and the findings: (number of the case, description)."""

    read: int = 0
    refused: int = 0
    findings: list[tuple[int, str]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Files that were tried."""
        return self.read + self.refused + len(self.findings)


def run(
    parser: Parser,
    seed: int,
    count: int,
    keep: Path | None = None,
    hang: float = HANG,
    first: int = 0,
    most: int = KEPT,
) -> Tally:
    """Try the cases from `first` on, `count` of them, until `most` findings; `keep` gets the folders of findings."""
    tally, at = Tally(), first
    with tempfile.TemporaryDirectory(prefix="lf-fuzz-") as place:
        whole, cases = Path(place, "whole"), Path(place, "case")
        whole.mkdir()
        parser.make(whole)
        while at < first + count and len(tally.findings) < most:
            for number, said in _answers(parser, seed, at, first + count, Path(place), hang):
                at = number + 1
                if said in ("read", "refused"):
                    setattr(tally, said, getattr(tally, said) + 1)
                    continue
                tally.findings.append((number, said))
                if keep:
                    shutil.copytree(cases, keep / f"{parser.name}-{seed}-{number}", dirs_exist_ok=True)
    return tally


def _answers(parser: Parser, seed: int, first: int, last: int, place: Path, hang: float) -> Iterator[tuple[int, str]]:
    """(number, "read", "refused" or what was found) until the cases or the process end; the last one is the finding."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(parser, seed, first, last, place, theirs)
    )
    process.start()
    theirs.close()
    number, limit = first, START
    try:
        while True:
            if _hangs(ours, process.pid, limit):
                yield number, f"hangs for more than {limit:g} s"
                return
            number, said = ours.recv()
            if said == "done":
                return
            limit = hang
            if said != "begun":
                yield number, said
                if said not in ("read", "refused"):
                    return
    except EOFError:
        process.join()
        yield number, f"the process died with {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _hangs(pipe: Connection, process: int | None, limit: float) -> bool:
    """Wait for the next word of a process; whether it spends `limit` s of processor time without one, or sleeps."""
    begun, clock = _spent(process), time.monotonic()
    while not pipe.poll(0.2):
        if _spent(process) - begun > limit or time.monotonic() - clock > ASLEEP * limit:
            return True
    return False


def _spent(process: int | None) -> float:
    """Seconds of processor time of a process so far; 0 where it has ended."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _work(parser: Parser, seed: int, first: int, last: int, place: Path, pipe: Connection) -> None:
    """Read, in the child process, the whole files once, then the damaged ones, and report the end of each."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ["LF_DEBUG"] = "1"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_DATA, (CEILING, CEILING))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    guard = Guard(place)
    with contextlib.suppress(Exception):  # what it imports may start processes
        os.chdir(_fresh(place))
        parser.read(place / "case")
    if said := _tried(parser, _fresh(place), guard):
        pipe.send((first, f"the whole file: {said}"))
        return
    for number in range(first, last):
        pipe.send((number, "begun"))
        damage(parser, place, seed, number)
        said = _tried(parser, place / "case", guard)
        pipe.send((number, said or "read"))
        if said not in (None, "refused"):
            return
    pipe.send((last, "done"))


def damage(parser: Parser, place: Path, seed: int, number: int) -> Path:
    """Copy `place/whole` to `place/case` and damage one of its targets; always the same for a seed and a number."""
    case, rng = _fresh(place), Random(f"{seed}/{parser.name}/{number}")
    targets = sorted(path for pattern in parser.targets for path in case.glob(pattern))
    target = rng.choice(targets)
    data = target.read_bytes()
    for _ in range(rng.choice((1, 1, 1, 2))):
        known = [*parser.mutators] if rng.random() < 0.7 and parser.mutators else [*BYTES]
        try:
            data = rng.choice(known)(data, rng) if data else data
        except Exception:  # a second mutator cannot read what the first one left
            break
    target.write_bytes(data)
    return case


def _fresh(place: Path) -> Path:
    shutil.rmtree(place / "case", ignore_errors=True)
    return Path(shutil.copytree(place / "whole", place / "case"))


def _tried(parser: Parser, case: Path, guard: Guard) -> str | None:
    """None where the case was read, "refused", or what was found."""
    os.chdir(case)
    refused: str | None = None
    with guard.watching(case) as wrong:
        try:
            parser.read(case)
        except LfError as error:
            refused = "refused"
            if error.exit_code not in parser.codes:
                wrong.append(f"exit code {error.exit_code}, expected {parser.codes}: {error}")
            if "\n" in str(error):
                wrong.append(f"an error of several lines: {error}")
        except BaseException as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            ours = [
                f
                for f in traceback.extract_tb(error.__traceback__)
                if "/lf/" in f.filename and "/fuzz/" not in f.filename
            ]
            place = ours[-1] if ours else at
            wrong.append(f"{type(error).__name__}: {str(error)[:200]!r} at {Path(place.filename).name}:{place.lineno}")
    return "; ".join(wrong) or refused
