"""Train with validation and boards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import NamedTuple

from lf.core import console
from lf.studies.validation import Validation, Watch
from lf.train import Recipe


class Trained(NamedTuple):
    """The weights of a run, and its speed: `images_per_s` and `data_share`, or None."""

    path: Path
    throughput: Mapping[str, float] | None


def train(
    recipe: Recipe,
    photos: Sequence[str],
    out: Path,
    *,
    device: str = "auto",
    threads: int = 1,
    save_every: int = 250,
    boards: Sequence[str] = (),
    validate: str | None = None,
    protocol: str = "kp2d-fixed",
    validate_every: int = 1000,
    validate_pairs: int = 50,
    keep_best: str | None = None,
) -> Trained | None:
    """Train a network; the same folder resumes.

    Args:
        recipe: what to train.
        photos: sources of images, see `lf.train.pictures.collect`.
        out: folder of the run.
        device: auto, cpu or cuda.
        threads: threads of the processor.
        save_every: steps between checkpoints.
        boards: rows of BOARDS to log to.
        validate: dataset of the validation, see `lf.data.open_dataset`; None leaves it out.
        protocol: protocol of the validation.
        validate_every: steps between validations.
        validate_pairs: largest number of pairs.
        keep_best: metric that selects the best weights, which are stored, too.

    Returns:
        The weights; None in processes of a distributed run that do not write them.
    """
    from lf.train.boards import BOARDS
    from lf.train.loop import train as run
    from lf.train.workers import rank

    first = rank() == 0
    opened = [BOARDS[name]() for name in boards if first]
    check = Validation(validate, protocol, validate_pairs, threads, keep_best) if validate and first else None
    shown = console.progress() if first else nullcontext(lambda done, total, text: None)
    with shown as progress, closing(Watch(opened, check, validate_every, progress)) as watch:
        made = run(
            recipe, photos, out, device=device, threads=threads, progress=progress, every=save_every, watch=watch
        )
    return Trained(made.path, watch.pace) if first else None
