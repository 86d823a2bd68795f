"""Check what runs on the GPU of this machine, and its speed: `python -m scripts.gpu_check --out DIR`.

Three parts: the conformance suite on every engine that is installed; some steps of training on one and on all GPUs, in
float32 and in bfloat16; and every family of networks in ort-cuda and ort-tensorrt, for 1 and for 32 images at a time.
What is not installed is "not measured", with the reason. DIR/results.json is for `lf report`; it also holds what the
page on standard output says.

`--stand-in cpu` takes the same path on a machine without a GPU, in a minute: one family, two processes for two GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from lf.benchmarks.report.tables import markdown
from lf.benchmarks.run import results
from lf.benchmarks.run.suite import latencies
from lf.core import Artifact, Card, LfError, Unavailable, files, one_line
from lf.export import to_onnx
from lf.formats import model_file
from lf.models import NETWORKS, checkpoint
from lf.models.resolve import resolve, shipped
from lf.runtimes import open_session
from lf.studies import doctor

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("conformance", "training", "figures")
ENGINES = ("ort-cuda", "ort-tensorrt")
STAND_IN = {"cpu": ("ort-cpu",)}
BATCHES = (1, 32)
SIZE = (480, 640)  # H, W
WARM_UP, REPEATS = 5, 30
STEPS, RECIPE = 20, "swift-tiny"
PROTOCOL = "kp2d-640"  # of the runs for lf report: SIZE
MOST_TEXT = 300  # letters of an error
MOST = 1800  # s for a part that runs in a process of its own

Row = dict[str, Any]
Runs = list[Any]


def conformance(out: Path, stand_in: bool) -> list[Row]:
    """Run the conformance suite in a separate process: counts of its tests, and names of failed tests."""
    report = out / "conformance.xml"
    which = ["-k", "ort-cpu and swift"] if stand_in else []
    words = ["-m", "pytest", "-q", "-o", "addopts=", "-m", "not alone", *which, f"--junitxml={report}"]
    said = ran([sys.executable, *words, "tests/test_conformance.py"])
    if not report.exists():
        return [{"part": "conformance", "outcome": "failed", "detail": said}]
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    bad = [case.get("name", "") for case in suite if case.find("failure") is not None or case.find("error") is not None]
    fine = not bad and counts["tests"] > counts["skipped"]
    text = f"{counts['tests'] - counts['skipped'] - len(bad)} passed, {len(bad)} failed, {counts['skipped']} skipped"
    return [{"part": "conformance", "outcome": "ok" if fine else "failed", "detail": "; ".join([text, *bad])}]


def training(out: Path, device: str, count: int, steps: int) -> list[Row]:
    """Some steps of training in each precision, alone and in `count` processes with a GPU each."""
    rows = []
    for workers in (1, count) if count > 1 else (1,):
        for bf16 in ("false", "true"):
            name = f"{RECIPE}, {workers} x {device}, {'bf16' if bf16 == 'true' else 'float32'}"
            folder = out / f"train-{workers}-{bf16}"
            several = (
                ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"] if workers > 1 else []
            )
            words = ["-m", "lf.cli", "train", RECIPE, "--photos", "procedural:16", "--device", device, "--out", folder]
            options = [f"--set={text}" for text in (f"steps={steps}", f"bf16={bf16}", "batch=8", "pictures=16")]
            began = time.monotonic()
            said = ran([sys.executable, *several, *map(str, words), *options])
            rows.append({"part": "training", "name": name, **learned(folder, said, time.monotonic() - began)})
    if count == 1:
        rows.append(
            {"part": "training", "name": "several GPUs", "outcome": "not measured", "detail": "there is one GPU"}
        )
    return rows


def learned(folder: Path, said: str, seconds: float) -> Row:
    """Check a run of training: the numbers of its log are finite, and its weights are written."""
    from lf.train.state import LOG

    log, weights = folder / LOG, folder / f"{RECIPE}.safetensors"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    numbers = [value for line in lines for value in line.values()]
    if said or not numbers or not np.isfinite(numbers).all() or not weights.exists():
        return {"outcome": "failed", "detail": said or f"its log: {lines[-1:]}"}
    last = ", ".join(f"{name} {value:.4g}" for name, value in lines[-1].items())
    return {"outcome": "ok", "detail": f"{seconds:.0f} s with the start; {last}"}


def ran(words: Sequence[str]) -> str:
    """Run a program; return the end of its output if it failed, otherwise ""."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=MOST)
    except subprocess.TimeoutExpired:
        return f"not done after {MOST} s"
    return " ".join((done.stderr or done.stdout).split())[-500:] if done.returncode else ""


def families() -> list[str]:
    """Return one network of each family: shipped weights, or its first row."""
    found: dict[str, str] = {}
    for name in sorted(NETWORKS, key=lambda name: name not in shipped()):
        found.setdefault(NETWORKS[name].family, name)
    return [*found.values()]


def made(name: str, batch: int, size: tuple[int, int], folder: Path) -> Artifact:
    """A network in ONNX for so many images at a time; random weights where none are shipped."""
    import torch

    row = NETWORKS[name]
    torch.manual_seed(0)
    fresh = Card(name, {}, (row.channels, None, None), outputs=dict(row.heads))
    place = folder / f"{name}.safetensors"
    parent = resolve(name) if name in shipped() else checkpoint.save(place, checkpoint.build(name), fresh)
    graph = to_onnx.trace(parent, size, to_onnx.OPSET, batch)
    card = replace(parent.card, input=(row.channels, *size), outputs=dict(row.heads))
    return model_file.save(folder / f"{name}-{batch}.onnx", graph.SerializeToString(), card)


def figures(
    engines: Sequence[str], names: Sequence[str], batches: Sequence[int], repeats: int
) -> tuple[list[Row], Runs]:
    """Milliseconds of every network in every engine, and runs of whole extractions for `lf report`."""
    there = {row["name"]: row for row in doctor.examine()}
    usable = [engine for engine in engines if there[engine]["ok"]]
    rows, singles, size = [], [], SIZE
    with tempfile.TemporaryDirectory(prefix="lf-gpu-") as place:
        for name, batch in product(names, batches):
            if not usable:
                rows += [_unmeasured(name, batch, engine, there[engine]["detail"]) for engine in engines]
                continue
            try:
                artifact = made(name, batch, size, Path(place))
            except Exception as error:  # those of the exporter share no base class; the other families go on
                rows += [_unmeasured(name, batch, engine, one_line(error, MOST_TEXT)) for engine in engines]
                continue
            if batch == 1 and not {*usable} & {*NETWORKS[name].not_on}:
                singles.append(artifact)
            rows += [timed(artifact, name, batch, engine, there[engine], repeats) for engine in engines]
        if not singles:  # so that there is a report: of the processor
            singles, usable = [made("swift", 1, size, Path(place))], ["ort-cpu"]
        runs = latencies(singles, usable, PROTOCOL, repeats=repeats)
    return rows, runs


def timed(artifact: Artifact, name: str, batch: int, engine: str, there: Mapping[str, Any], repeats: int) -> Row:
    """The median ms of a run of so many images, copies to and from the device included."""
    if not there["ok"]:
        return _unmeasured(name, batch, engine, there["detail"])
    height, width = artifact.card.input[1:]
    image = np.random.default_rng(0).random((batch, artifact.card.input[0], height, width), np.float32)
    try:
        session = open_session(artifact, engine)
        times = []
        for _ in range(WARM_UP + repeats):
            began = time.perf_counter()
            session.run(image)
            times.append(time.perf_counter() - began)
    except LfError as error:
        return _unmeasured(name, batch, engine, one_line(error, MOST_TEXT))
    ms = float(np.median(times[WARM_UP:])) * 1e3
    detail = f"{ms:.2f} ms, {batch / ms * 1e3:.0f} images/s"
    return {**_named(name, batch, engine), "outcome": "ok", "ms": round(ms, 4), "detail": detail}


def _named(name: str, batch: int, engine: str) -> Row:
    return {"part": "figures", "name": f"{name}, {engine}, batch {batch}"}


def _unmeasured(name: str, batch: int, engine: str, why: str) -> Row:
    return {**_named(name, batch, engine), "outcome": "not measured", "detail": why}


def gpus() -> list[str]:
    """Names of the GPUs that PyTorch sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def check(out: Path, stand_in: str | None, parts: Sequence[str]) -> tuple[list[Row], Runs]:
    """Run the parts.

    Raises:
        Unavailable: there is no GPU, and nothing stands in for it.
    """
    found = gpus()
    if not found and not stand_in:
        raise Unavailable("PyTorch sees no GPU here; to try the script without one, type: --stand-in cpu")
    rows, runs = list[Row](), list[Any]()
    if "conformance" in parts:
        rows += conformance(out, bool(stand_in))
    if "training" in parts:
        device, count, steps = (stand_in, 2, 2) if stand_in else ("cuda", len(found), STEPS)
        rows += training(out, device, count, steps)
    if "figures" in parts:
        names, repeats = (["swift"], 3) if stand_in else (families(), REPEATS)
        measured, runs = figures(STAND_IN[stand_in] if stand_in else ENGINES, names, BATCHES, repeats)
        rows += measured
    return rows, runs


def page(rows: Sequence[Row], machine: str) -> str:
    """Format the results in Markdown."""
    cells = [[row["part"], row.get("name", ""), row["outcome"], row["detail"]] for row in rows]
    return f"{machine}\n\n{markdown(['part', 'what', 'outcome', 'detail'], cells)}"


def main() -> None:
    """Print the page and write the results; exit code 1 where something failed."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--out", type=Path, required=True, help="new folder for results.json")
    options.add_argument("--stand-in", choices=[*STAND_IN], help="take this in place of a GPU")
    options.add_argument("--part", action="append", choices=PARTS, help="this part alone, repeatable [default: all]")
    given = options.parse_args()
    try:
        given.out.mkdir(parents=True)
        rows, runs = check(given.out, given.stand_in, given.part or PARTS)
    except FileExistsError:
        sys.exit(f"{given.out}: is there already; expected a new folder")
    except LfError as error:
        print(f"lf: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    machine = ", ".join(gpus()) or f"no GPU, {given.stand_in} stands in"
    files.write_json(
        given.out / "results.json", {**results.document(runs), "gpu_check": {"machine": machine, "rows": rows}}
    )
    print(page(rows, machine))
    sys.exit(any(row["outcome"] == "failed" for row in rows))


if __name__ == "__main__":
    main()
