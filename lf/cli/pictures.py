"""The commands `lf match` and `lf data get`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.core import console


def match(
    first: Annotated[Path, typer.Argument(readable=False, metavar="A", help="An image")],
    second: Annotated[Path, typer.Argument(readable=False, metavar="B", help="Another image of the same scene")],
    model: Annotated[str, typer.Option(metavar="FILE", help="A model file, or the name of shipped weights")],
    backend: Annotated[str | None, typer.Option(help="The engine; the first that runs the file else")] = None,
    homography: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="H_1_2", help="Nine numbers A -> B: colours the matches by their error"),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Match the best so many keypoints of each image")] = 1000,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine")] = 1,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write")] = Path(
        "matches.png"
    ),
) -> None:
    """Draw the keypoints and mutual matches of two images."""
    from lf.benchmarks.report import match_pictures
    from lf.data import hpatches, images
    from lf.extraction import store, stream
    from lf.extraction.extractor import Extractor
    from lf.models.resolve import resolve

    truth = None if homography is None else hpatches.read_homography(homography)
    loaded = images.read(first), images.read(second)
    artifact = resolve(model)
    engine = backend or store.engine_for(artifact)
    extractor = Extractor(artifact, engine, threads)
    found = [stream.published(extractor, image).top(top_k) for image in loaded]
    title = f"{artifact.path.name} in {engine}: {first.name} and {second.name}"
    console.result(match_pictures.save(output, match_pictures.matches(loaded, (found[0], found[1]), truth, title)))


def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to download: hpatches")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make; must not hold anything else")],
    url: Annotated[str | None, typer.Option(metavar="URL", help="Another place of the same archive")] = None,
) -> None:
    """Download a dataset, check it, unpack it; the same command resumes what was cut off."""
    from dataclasses import replace

    from lf.core import pick
    from lf.data.download import SOURCES, get

    source = pick(SOURCES, name, "dataset to download")
    with console.progress() as progress:
        folder = get(replace(source, url=url or source.url), out, progress)
    console.result(folder)
