"""Time and peak memory of the commands of lf, each in a fresh process: `python -m scripts.tool_costs`.

Pictures to calibrate on and images to warp into pairs are drawn, so nothing is needed beside the package. With
`--superpoint FILE`, a public checkpoint, it has rows, too. `--beside TREE` names another checkout with an environment
in `.venv`: both take turns, and the graphs that they write are compared byte by byte.

Every process has one thread (OMP_NUM_THREADS=1) and Python's byte code, which an earlier turn has written. Processor
time includes that of child processes. Peak memory is the largest resident size of one process.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent.parent
MIB = 2**20
# The standard library only: Linux counts the memory of the starting process as that of a process it starts.


@dataclass(frozen=True)
class Row:
    """A command to measure.

    Attributes:
        name: in the table.
        words: arguments of python; the places of `prepare` stand in braces.
        made: ONNX files in `out` whose graphs are compared.
    """

    name: str
    words: tuple[str, ...]
    made: tuple[str, ...] = ()


def lf(text: str) -> tuple[str, ...]:
    """Arguments of python that run a command of lf."""
    return ("-m", "lf", *text.split())


QUANTIZE = "quantize {%s} --scheme %s --images {photos} -o {out}/made.onnx"
BENCH = "bench {wren} --data warps:{pairs} --repeats 0 --out "
ON = "--images {photos} --limit 8 --data warps:{%s}"

ROWS = (
    Row("import lf", ("-c", "import lf")),
    Row("lf --help", lf("--help")),
    Row("lf export wren", lf("export wren -o {out}/made.onnx"), ("made.onnx",)),
    Row("lf export superpoint", lf("export {superpoint} -o {out}/made.onnx"), ("made.onnx",)),
    *(
        Row(f"lf quantize {name}, {scheme}", lf(QUANTIZE % (place, scheme)), ("made.onnx",))
        for name, place in (("wren", "checkpoint"), ("wren.onnx", "wren"), ("superpoint", "superpoint"))
        for scheme in ("w8a8", "w4a8")
    ),
    Row("lf bench wren.onnx, {count} pairs", lf(BENCH + "{out}/results")),
    Row("lf bench again, features kept", lf(BENCH + "{kept}")),
    Row("lf sensitivity wren.onnx, 8 pairs", lf("sensitivity {wren} " + ON % "few" + " --out {out}/layers")),
    Row(
        "lf search wren.onnx, 16 pairs, 2 files",
        lf("search {wren} " + ON % "more" + " --max-drop repeatability=0.5 --max-evaluations 2 -o {out}/made.onnx"),
        ("made.onnx",),
    ),
)


@dataclass(frozen=True)
class Cost:
    """Resources that one process used.

    Attributes:
        wall: s on the clock.
        cpu: s of the processor.
        peak: MiB, resident.
        made: digests of the graphs of `Row.made`.
    """

    wall: float
    cpu: float
    peak: float
    made: tuple[bytes, ...] = ()


def measure(words: Sequence[str], folder: Path) -> Cost:
    """Run a command in a folder.

    Raises:
        SystemExit: it failed; the text ends with what it said last.
    """
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        process = subprocess.Popen(
            words, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=said, stderr=said
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            end = said.read().decode(errors="replace")[-1000:]
            raise SystemExit(f"exit code {process.returncode}: {' '.join(words)}\n{end}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / MIB)


def python(tree: Path) -> str:
    """The interpreter of a checkout: that of its `.venv`, or this one for the checkout of this script."""
    own = tree / ".venv/bin/python"
    return str(own) if own.exists() else sys.executable


def prepare(folder: Path, superpoint: Path | None, pairs: int) -> dict[str, str]:
    """Draw images and export what is quantized and benched; the places that rows name."""
    run = python(HERE)
    counts = {"pairs": pairs, "few": 8, "more": 16}
    measure([run, *lf(f"data draw {folder / 'drawn'} --count {32 + max(counts.values())} --size 480x640")], HERE)
    drawn = sorted(Path(folder, "drawn").iterdir())
    parts = {"photos": drawn[:32]} | {name: drawn[32:][:count] for name, count in counts.items()}
    for name, part in parts.items():
        Path(folder, name).mkdir()
        for image in part:
            os.link(image, Path(folder, name, image.name))
    measure([run, *lf(f"export wren -o {folder / 'wren.onnx'}")], HERE)
    places = {name: str(folder / name) for name in (*parts, "kept")}
    places |= {"wren": str(folder / "wren.onnx"), "checkpoint": "wren", "count": str(pairs)}
    return places | ({"superpoint": str(superpoint.resolve())} if superpoint else {})


GRAPH = """
import hashlib, sys
from lf.formats.protobuf import fields
data = memoryview(open(sys.argv[1], 'rb').read())
print(*(hashlib.sha256(data[body:end]).hexdigest() for number, _, body, end in fields(data) if number == 7))
"""  # digest of the graph of an ONNX file, without its card, which names the version of lf


def cost(row: Row, tree: Path, places: Mapping[str, str]) -> Cost:
    """Measure a row in a checkout."""
    with tempfile.TemporaryDirectory(prefix="lf-costs-") as out:
        words = [word.format(**places, out=out) for word in row.words]
        found = measure([python(tree), *words], tree)
        graphs = [subprocess.check_output([python(HERE), "-c", GRAPH, str(Path(out, name))]) for name in row.made]
    return Cost(found.wall, found.cpu, found.peak, tuple(graphs))


def chosen(word: str, places: Mapping[str, str]) -> list[Row]:
    """The rows with `word` in their name that need no place that is not there."""
    rows = [row for row in ROWS if "superpoint" in places or "{superpoint}" not in row.words]
    return [row for row in rows if word in row.name]


def table(rows: Mapping[str, Sequence[Sequence[Cost]]], beside: str) -> str:
    """Markdown: a line for each row name; medians over turns, of this checkout, then beside it of the other one.

    Args:
        rows: name -> for each turn the cost in each checkout.
        beside: commit of the other checkout; empty without one.
    """
    heads = ["command", "wall s", "processor s", "peak MiB"]
    if beside:
        heads += [f"{head} of {beside}" for head in heads[1:]] + ["processor", "peak", "graphs"]
    lines = [heads, ["---"] * len(heads)]
    for name, turns in rows.items():
        cells = []
        for column in zip(*turns, strict=True):
            wall, cpu, peak = (
                median(values) for values in zip(*((c.wall, c.cpu, c.peak) for c in column), strict=True)
            )
            cells += [f"{wall:.2f}", f"{cpu:.2f}", f"{peak:.0f}"]
        if beside:
            pairs = [(new.cpu / old.cpu, new.peak / old.peak) for new, old in turns]
            shares = [median(values) for values in zip(*pairs, strict=True)]
            cells += [*(f"{share:.2f}" for share in shares), alike(turns)]
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def alike(turns: Sequence[Sequence[Cost]]) -> str:
    """Compare the graphs of all turns and checkouts: same, differ or -."""
    made = {cost.made for turn in turns for cost in turn}
    return "-" if made == {()} else "same" if len(made) == 1 else "differ"


def machine() -> str:
    """The processor, cores, load, Python."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(": ")[2] if names else platform.processor()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{name}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}"


def commit(tree: Path) -> str:
    """Short name of the commit of a checkout, with + where files were changed."""
    words = ["git", "-C", str(tree), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--superpoint", type=Path, help="public checkpoint of SuperPoint [default: no such rows]")
    options.add_argument("--beside", type=Path, help="another checkout to compare with")
    options.add_argument("--only", default="", help="rows with this word in their name [default: all]")
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--pairs", type=int, default=580)
    given = options.parse_args()
    trees = [HERE, *([given.beside.resolve()] if given.beside else [])]
    began = machine()
    with tempfile.TemporaryDirectory(prefix="lf-costs-") as place:
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(place, "byte-code"))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        places = prepare(Path(place), given.superpoint, given.pairs)
        rows: dict[str, list[list[Cost]]] = {}
        for row in chosen(given.only, places):
            kept = [places | {"kept": f"{places['kept']}{index}"} for index in range(len(trees))]
            every = rows.setdefault(row.name.format(**places), [])
            for turn in range(-1, given.turns):  # the first one writes byte code, and features to keep
                order = [*enumerate(zip(trees, kept, strict=True))][:: 1 if turn % 2 else -1]
                found = {index: cost(row, tree, where) for index, (tree, where) in order}
                if turn >= 0:
                    every.append([found[index] for index in range(len(trees))])
                print(row.name, turn, found, file=sys.stderr)
    print(f"Commit {commit(HERE)}; {began}; {given.turns} turns\n")
    print(table(rows, commit(given.beside) if given.beside else ""))


if __name__ == "__main__":
    main()
