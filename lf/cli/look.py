"""The commands that show what there is: inspect, doctor, models, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import File, Json, Threads
from lf.core import UsageError, console
from lf.models.resolve import resolve

NESTED = ("calibration", "ranges")  # too long for a line


def inspect(file: File, json: Json = False) -> None:
    """Print the card a file carries: what it is, what it was made from, and how."""
    from dataclasses import asdict

    artifact = resolve(file)
    card = {"file": str(artifact.path), "bytes": artifact.bytes, "sha256": artifact.sha256, **asdict(artifact.card)}
    if json:
        console.as_json(card)
        return
    for key, value in card.items():
        console.result(f"{key:9} {value}" if key != "made" else "made")
    for step in artifact.card.made:
        console.result("  " + "  ".join(f"{name}={value}" for name, value in step.items() if name not in NESTED))
        if "calibration" in step:
            used = {name: value for name, value in step["calibration"].items() if name != "files"}
            console.result(f"    calibration {used}")


def doctor(json: Json = False) -> None:
    """Say which engines, providers and processor features are there, and what to type for the missing ones."""
    from lf.studies.doctor import examine

    rows = examine()
    if json:
        console.as_json({"checks": rows})
        return
    for row in rows:
        console.result(f"{'ok ' if row['ok'] else '-- '} {row['name']:12} {row['detail']}")


def models(json: Json = False) -> None:
    """List the networks lf knows and the weights that ship with it."""
    from lf.models import MODELS
    from lf.models.resolve import shipped

    weights = {name: path.stat().st_size for name, path in shipped().items()}
    if json:
        rows = {n: {"about": m.about, "parameters": m.parameters, "shipped": weights.get(n)} for n, m in MODELS.items()}
        console.as_json(rows)
        return
    for name, model in MODELS.items():
        ships = f"ships, {weights[name] / 1e6:.1f} MB" if name in weights else "bring a checkpoint"
        origin = ships if model.module else "no weights"
        console.result(f"{name:17} {model.parameters:>10,} parameters  {origin:18}  {model.about}")


def data_list(
    data: Annotated[str, typer.Argument(metavar="ROOT", help="As for lf bench --data")], json: Json = False
) -> None:
    """List the sequences of a dataset, how many pairs each has, and the protocols that leave it out."""
    from collections import Counter

    from lf.benchmarks import PROTOCOLS
    from lf.data import open_dataset

    pairs = Counter(pair.sequence for pair in open_dataset(data))
    without = {name: [p for p, rule in PROTOCOLS.items() if name in rule.without] for name in pairs}
    if json:
        console.as_json({name: {"pairs": count, "left_out_by": without[name]} for name, count in pairs.items()})
        return
    for name, count in pairs.items():
        console.result(f"{name:24} {count:3} pairs" + "".join(f", not in {p}" for p in without[name]))
    console.result(f"{len(pairs)} sequences, {pairs.total()} pairs")


def demo(
    camera: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Show keypoints and tracks of a camera")
    ] = None,
    video: Annotated[Path | None, typer.Option(readable=False, metavar="FILE", help="... or of a video")] = None,
    images: Annotated[
        Path | None, typer.Option(readable=False, metavar="DIR", help="... or of the images of a folder")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="FILE", help="For these: a model file or shipped weights; wren else")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="For these: the engine; the first that runs the file else")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="For these: the best so many keypoints; 300 else")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="For these: stop after so many frames")] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the files go; for these also a video: FILE.avi, FILE.mp4")
    ] = Path("out/demo"),
    threads: Threads = 1,
) -> None:
    """The main job on the shipped network: export, quantize, bench, picture; or keypoints and tracks, live."""
    chosen = [source for source in (camera, video, images) if source is not None]
    if len(chosen) > 1:
        raise UsageError("one of --camera, --video and --images, not more")
    if chosen:
        _live(camera, video, images, model or "wren", backend, top_k or 300, frames, out, threads)
        return
    if any((model, backend, top_k, frames)):
        raise UsageError("--model, --backend, --top-k and --frames belong to --camera, --video or --images")
    from lf.studies.demo import demo as run

    with console.progress() as progress:
        run(out, threads, progress)


def _live(
    camera: int | None,
    video: Path | None,
    images: Path | None,
    model: str,
    backend: str | None,
    top_k: int,
    limit: int | None,
    out: Path,
    threads: int,
) -> None:
    from lf.data import frames
    from lf.extraction import store
    from lf.extraction.extractor import Extractor
    from lf.studies import live

    artifact = resolve(model)
    extractor = Extractor(artifact, backend or store.engine_for(artifact), threads)
    if camera is not None:
        source = frames.camera(camera)
        console.note(f"{source.name}: Ctrl-C ends it")
    else:
        source = frames.video(video) if video is not None else frames.folder(images or Path())
    with console.progress() as progress:
        seen = live.run(source, extractor, out, top_k, limit, progress)
    info = extractor.session.info
    console.note(f"{artifact.path.name} in {info.engine} {info.version}, {info.provider}: {seen}")
    console.result(out)
