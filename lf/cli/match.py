"""`lf match`: draw the matches of two images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli import options as opt
from lf.core import console
from lf.models import DEFAULT

EXAMPLES = (
    "lf match A.png B.png",
    "lf match A.png B.png --model wren.w8a8.onnx --homography H_1_2",
    "lf match A.png B.png --model seg.onnx --segmentation --only stable",
)


def match(
    first: Annotated[Path, typer.Argument(readable=False, metavar="A", help="Image")],
    second: Annotated[Path, typer.Argument(readable=False, metavar="B", help="Another image of the same scene")],
    model: opt.Model = DEFAULT,
    backend: opt.AutoBackend = "auto",
    threads: opt.Threads = 1,
    top_k: opt.Best = 1000,
    pyramid: opt.Pyramid = False,
    homography: Annotated[
        Path | None,
        typer.Option(
            readable=False, metavar="H_1_2", help="True homography, to colour errors", rich_help_panel=opt.WHERE
        ),
    ] = None,
    segmentation: Annotated[
        bool, typer.Option("--segmentation", help="Colour matches by class", rich_help_panel=opt.WHERE)
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(metavar="SET", help="Label set of a file whose card names no classes", rich_help_panel=opt.WHERE),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Keep matches on these classes, or: stable", rich_help_panel=opt.WHERE),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="File to write", rich_help_panel=opt.WHERE)
    ] = Path("matches.png"),
) -> None:
    """Draw the keypoints and mutual matches of two images."""
    from lf.benchmarks.report import match_pictures
    from lf.core import UsageError
    from lf.data import hpatches, images
    from lf.extraction import auto, stream
    from lf.extraction.extractor import Extractor
    from lf.models.resolve import resolve

    if (only or classes) and not segmentation:
        what = "`only` keeps" if only else "`classes` names"
        raise UsageError(f"{what} classes of a segmentation; add `segmentation=True`")
    if homography and segmentation:
        raise UsageError("`homography` and `segmentation` both colour the matches; leave one out")
    truth = None if homography is None else hpatches.read_homography(homography)
    loaded = images.read(first), images.read(second)
    artifact = resolve(model)
    chosen = auto.named(artifact, backend, threads, lambda: loaded[0])
    extractor = Extractor(artifact, chosen, threads, extraction=opt.extraction_of(None, pyramid))
    found = [stream.published(extractor, image, top_k) for image in loaded]
    title = f"{artifact.path.name} in {chosen}: {first.name} and {second.name}"
    both = found[0], found[1]
    if segmentation:
        from lf.benchmarks.report import class_pictures

        table = class_pictures.classes_for(extractor, classes)
        keep = class_pictures.chosen(table, only)
        masks = [class_pictures.classes_of(extractor, image) for image in loaded]
        picture = class_pictures.matches(loaded, both, (masks[0], masks[1]), table, keep, title)
    else:
        picture = match_pictures.matches(loaded, both, truth, title)
    console.result(match_pictures.save(output, picture))
