"""`lf live`: keypoints and tracks of a camera, a video or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console
from lf.models import DEFAULT

EXAMPLES = (
    "lf live 0",
    "lf live drive.mp4 --model wren.w8a8.onnx --out tracks.mp4",
)


def live(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Camera number, video file or folder of images")],
    model: opt.Model = DEFAULT,
    backend: opt.AutoBackend = "auto",
    threads: opt.Threads = 1,
    top_k: opt.Best = 300,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N frames", rich_help_panel=opt.HOW)
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="Folder of images, or video .avi, .mp4", rich_help_panel=opt.WHERE)
    ] = Path("out/live"),
) -> None:
    """Draw keypoints and tracks of a video or folder."""
    from lf.data import frames as sources
    from lf.extraction import auto
    from lf.extraction.extractor import Extractor
    from lf.models.resolve import resolve
    from lf.studies import live as tracks

    artifact = resolve(model)
    first, shown = sources.peek(sources.open_source(source))
    chosen = auto.named(artifact, backend, threads, lambda: first)
    extractor = Extractor(artifact, chosen, threads)
    if source.isdecimal():
        console.note(f"{shown.name}: Ctrl-C ends it")
    with console.progress() as progress:
        seen = tracks.run(shown, extractor, out, top_k, frames, progress)
    info = extractor.session.info
    console.note(f"{artifact.path.name} in {info.engine} {info.version}, {info.provider}: {seen}")
    console.result(out)
