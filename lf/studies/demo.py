"""Export, quantize and benchmark the default network without data: `lf demo`, `make demo`."""

from __future__ import annotations

from pathlib import Path

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.report import match_pictures, tables, web
from lf.benchmarks.run.suite import RESULTS, suite
from lf.core import Artifact, console
from lf.data import open_dataset
from lf.data.drawn import folders
from lf.export import export
from lf.extraction.extractor import Extractor
from lf.models import DEFAULT
from lf.models.resolve import resolve
from lf.quantize import quantize
from lf.studies.doctor import examine

PROTOCOL = "kp2d-fixed"
DATA = "procedural:60"  # sequences of two images, from families and seeds that training never sees
CALIBRATION = 32  # images, from the training families


def demo(out: Path, threads: int, progress: console.Progress) -> None:
    """Export a shipped checkpoint to ONNX, quantize it to w8a8, and benchmark all three; results go to `out`."""
    checkpoint = resolve(DEFAULT)
    console.note(f"1/4 export {checkpoint.path.name} to ONNX and compare it with PyTorch")
    exported = export(checkpoint, "onnx", out / f"{DEFAULT}.onnx", size=PROTOCOLS[PROTOCOL].size)
    console.note(f"2/4 quantize to w8a8, calibrated on {CALIBRATION} drawn images")
    small = quantize(exported, "w8a8", _calibration(out), out / f"{DEFAULT}.w8a8.onnx", progress=progress)
    console.note(f"3/4 benchmark: protocol {PROTOCOL}, {DATA}")
    runs = suite(
        [checkpoint, exported, small],
        ["torch", "ort-cpu"],
        DATA,
        PROTOCOL,
        threads=threads,
        out=out,
        progress=progress,
    )
    console.note("4/4 draw the matches of one pair")
    picture = _picture(out, small)
    console.result(tables.page(runs))
    report = web.write(runs, out / web.PAGE, title=f"{DEFAULT}: float beside 8 bits")
    made = (exported.path, small.path, out / RESULTS, picture)
    console.result("\nfiles: " + "\n       ".join(map(str, made)))
    for row in examine():
        if not row["ok"] and not row["name"].startswith("lf["):
            console.result(f"skipped: {row['name']}: {row['detail']}")
    console.result("your own data: lf bench FILE..., with data a folder in HPatches layout or warps:PHOTOS")
    console.result(f"open this page in a browser: {report}")


def _calibration(out: Path) -> Path:
    folder = out / "calibration"
    folders.write_pictures(folder, CALIBRATION, (240, 320))
    return folder


def _picture(out: Path, artifact: Artifact) -> Path:
    pair = next(pair for pair in open_dataset(DATA) if pair.sequence.startswith("v"))
    rule, extractor = PROTOCOLS[PROTOCOL], Extractor(artifact, "ort-cpu")
    loaded = pair.first.load(), pair.second.load()
    shown = [rule.prepare(image, 3)[0] for image in loaded]
    found = [extractor(rule.prepare(image, extractor.model.colours)[0], top_k=rule.params["k"]) for image in loaded]
    homography = rule.homography(pair.homography, loaded[0].shape[:2], loaded[1].shape[:2])
    drawn = match_pictures.matches((shown[0], shown[1]), (found[0], found[1]), homography, f"{DEFAULT} w8a8, ort-cpu")
    return match_pictures.save(out / "matches.png", drawn)
