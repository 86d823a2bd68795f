"""The command `lf train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lf.benchmarks import PROTOCOLS
from lf.cli.options import Threads
from lf.core import UsageError, console
from lf.train import RECIPES

WIDE = max(map(len, RECIPES))
LIST = "\n".join(["\b", "Recipes:", *(f"  {name:{WIDE}}  {recipe.about}" for name, recipe in RECIPES.items())])


def train(
    recipe: Annotated[str, typer.Argument(help="A training recipe, see the list below")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Weights, checkpoint and log; the same DIR resumes")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR[:N]",
            help="Photos, or: procedural, shapes; again for more; N squares of it; else the recipe's own",
        ),
    ] = None,
    change: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; under torchrun one GPU per process")] = "auto",
    threads: Threads = 1,
    save_every: Annotated[int, typer.Option(min=1, metavar="STEPS", help="How often to keep a checkpoint")] = 250,
    validate: Annotated[
        str | None, typer.Option(metavar="ROOT", help="Measure the weights on the way: data as for lf bench")
    ] = None,
    protocol: Annotated[str, typer.Option(help=f"Of the validation: {', '.join(PROTOCOLS)}")] = "kp2d",
    validate_every: Annotated[int, typer.Option(min=1, metavar="STEPS", help="How often, and at the end")] = 1000,
    validate_pairs: Annotated[int, typer.Option(min=1, help="Most pairs to measure, evenly chosen")] = 50,
    keep_best: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Keep the best weights by this number of the validation too")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log to DIR/tb for TensorBoard")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases")] = False,
) -> None:
    """Train a network; stop and run again to resume exactly."""
    from contextlib import closing, nullcontext

    from lf.core import pick
    from lf.studies.validation import Validation, Watch
    from lf.train.boards import BOARDS
    from lf.train.loop import train as run
    from lf.train.workers import rank

    if keep_best and not validate:
        raise UsageError("--keep-best needs --validate ROOT to tell which weights are best")
    chosen = pick(RECIPES, recipe, "recipe").override(change or [])
    first = rank() == 0  # of several processes, the one that writes
    wanted = {"tensorboard": tensorboard, "wandb": wandb}
    boards = [BOARDS[name]() for name, on in wanted.items() if on and first]
    check = Validation(validate, protocol, validate_pairs, threads, keep_best) if validate and first else None
    shown = console.progress() if first else nullcontext(lambda done, total, text: None)
    with shown as progress, closing(Watch(boards, check, validate_every, progress)) as watch:
        made = run(
            chosen,
            data or [chosen.data],
            out,
            device=device,
            threads=threads,
            progress=progress,
            every=save_every,
            watch=watch,
        )
    if not first:
        return
    if watch.pace and sys.stderr.isatty():
        images, share = watch.pace["images_per_s"], watch.pace["data_share"]
        console.note(f"{chosen.steps} steps, {images:.1f} images/s, {share:.0%} of the time making views")
    console.result(made.path)
