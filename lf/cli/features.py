"""The commands `lf score` and `lf extract`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lf.cli.options import parse_shard
from lf.core import BadInput, UsageError, console


def score(
    paths: Annotated[
        list[Path],
        typer.Argument(readable=False, metavar="PAIR.npz...|DIR", help="Stored pairs; with --data, features"),
    ],
    protocol: Annotated[str, typer.Option(help="How the numbers are made: superpoint, kp2d, mma ...")],
    data: Annotated[
        str | None, typer.Option(metavar="ROOT", help="The images behind DIR: a folder in HPatches layout")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Of the features in DIR: r2d2, d2net, posfeat, hloc, lf ...")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Best points to use; the protocol's own number else")] = None,
    ap: Annotated[str | None, typer.Option(help="Matches behind nn_map: two-way or crosscheck")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Score features that another tool extracted: stored pairs one by one, or the images of a dataset."""
    from lf.benchmarks.report import tables
    from lf.benchmarks.run import results, score

    rule = score.choose(protocol, top_k, ap)
    if data is None:
        if folders := [path for path in paths if path.is_dir()]:
            raise UsageError(f"{folders[0]}: a folder of features needs --data ROOT and --layout")
        found = score.score_files(paths, rule, layout or "pair")
        unscored = [path for path, row in found.items() if row["protocol_digest"] != rule.digest]
        if unscored and ap is None and "ap" in rule.params:
            console.note(
                f"{unscored[0]}: no scores, as SIFT's files; all points count. For the AP of SIFT: --ap crosscheck"
            )
        if json:
            console.as_json(found if len(found) > 1 else next(iter(found.values())))
        else:
            console.result(score.table(found))
        return
    if len(paths) != 1 or layout is None:
        raise UsageError("--data ROOT needs one DIR of features and their --layout")
    with console.progress() as progress:
        run = score.score_folder(paths[0], data, layout, rule, progress)
    console.as_json(results.document([run])) if json else console.result(tables.page([run]))


def extract(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model file, or the name of shipped weights")],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES|DIR...", help="Images and folders; for superpoint, one dataset")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the features go; the same DIR resumes")],
    layout: Annotated[
        str, typer.Option(help="Whose files to write: r2d2, d2net, posfeat, superpoint, hloc, lf")
    ] = "lf",
    backend: Annotated[str | None, typer.Option(help="The engine; the first that runs the file else")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Images at a time, an engine for each; else cores / threads, in a pool 1")
    ] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Of N runs that share the images the I-th")] = "0/1",
    pool: Annotated[str | None, typer.Option(help="Spread the images over a pool of machines: ray")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Keep the best so many keypoints of each image")] = None,
    keypoints: Annotated[
        str | None, typer.Option(help="Describe the points of a baseline instead: sift, orb ...")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Write the features of images in a layout that other tools read; run it again to go on."""
    from dataclasses import asdict, replace
    from functools import partial

    from lf.benchmarks.run import superpoint_export
    from lf.core import pick
    from lf.data.layouts import LAYOUTS
    from lf.extraction import store
    from lf.extraction.pools import POOLS
    from lf.extraction.stream import cores
    from lf.extraction.variant import Variant
    from lf.models.resolve import resolve

    pairs, part = pick(LAYOUTS, layout, "layout").open is None, parse_shard(shard)
    spread = pick(POOLS, pool, "pool") if pool else None
    if pairs and len(images) != 1:
        raise UsageError(f"layout {layout} holds pairs: give one folder in HPatches layout, not {len(images)} paths")
    if pairs and (pool or part != store.WHOLE):
        raise UsageError(f"layout {layout} numbers the pairs of a dataset in one run; leave out --shard and --pool")
    if pool and part != store.WHOLE:
        raise UsageError("--pool shares the images out by itself; leave out --shard")
    artifact = resolve(model)
    artifact = replace(artifact, path=artifact.path.absolute()) if pool else artifact
    variant = Variant(artifact, backend or store.engine_for(artifact), keypoints)
    found = {} if pairs else store.share(store.find([*map(Path, images)]), part)
    with console.progress() as progress:
        if pairs:
            tally = superpoint_export.write(variant.open(threads), images[0], out, top_k, progress)
        elif spread:
            opener = partial(variant.open, threads)
            tally = spread(opener, found, out, layout, top_k, progress, cpus=threads, workers=workers or 1)
        else:
            tally = store.extract_images(
                variant.open(threads),
                found,
                out,
                layout,
                top_k,
                progress,
                workers=workers or max(1, cores() // threads),
                shard=part,
            )
    count = tally.written + tally.kept + len(tally.failed)
    if count and len(tally.failed) == count:
        raise BadInput(f"none of the {count} images could be read; the first: {next(iter(tally.failed.values()))}")
    for why in tally.failed.values():
        console.note(f"lf: skipped: {why}")
    if tally.failed:
        console.note(f"lf: skipped {len(tally.failed)} of {count} images")
    if json:
        console.as_json({"out": str(out), "layout": layout, **asdict(tally)})
    else:
        console.result(out)
