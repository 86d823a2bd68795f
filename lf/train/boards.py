"""BOARDS: TensorBoard and Weights & Biases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from lf.core import Array, Unavailable, one_line
from lf.core.packages import pip
from lf.train.state import Run, identity


class Board(Protocol):
    """Interface of boards. Steps increase; after a resume, later steps are replaced."""

    def scalars(self, run: Run, step: int, values: Mapping[str, float | None]) -> None:
        """Show numbers by name, `group/name`. None means undefined and is left out."""

    def picture(self, run: Run, step: int, name: str, picture: Array) -> None:
        """Show an image: uint8 (H, W, 3) RGB."""

    def close(self) -> None:
        """Write everything that is still in memory."""


class TensorBoard:
    """Event files in the folder `tb` of the run. To open them: tensorboard --logdir OUT/tb."""

    def __init__(self) -> None:
        """Find the package.

        Raises:
            Unavailable: it is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise Unavailable(f"`tensorboard` needs the package tensorboard; type: {pip('train')}") from error
        self._open: Any = SummaryWriter
        self._writer: Any = None

    def scalars(self, run: Run, step: int, values: Mapping[str, float | None]) -> None:
        """See `Board`."""
        for name, value in values.items():
            if value is not None:
                self._at(run, step).add_scalar(name, value, step)

    def picture(self, run: Run, step: int, name: str, picture: Array) -> None:
        """See `Board`."""
        self._at(run, step).add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """See `Board`."""
        if self._writer is not None:
            self._writer.close()

    def _at(self, run: Run, step: int) -> Any:
        if self._writer is None:
            self._writer = self._open(str(run.out / "tb"), purge_step=step)
        return self._writer


class WeightsAndBiases:
    """A run of the project `lf` at Weights & Biases. A resumed training continues the same run.

    Raises:
        Unavailable: the service cannot be reached. Raised at the first number.
    """

    def __init__(self) -> None:
        """Find the package.

        Raises:
            Unavailable: it is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise Unavailable("`wandb` needs the package wandb; type: pip install wandb") from error
        self._wandb: Any = wandb
        self._run: Any = None

    def scalars(self, run: Run, step: int, values: Mapping[str, float | None]) -> None:
        """See `Board`."""
        self._of(run).log({name: value for name, value in values.items() if value is not None}, step=step)

    def picture(self, run: Run, step: int, name: str, picture: Array) -> None:
        """See `Board`."""
        self._of(run).log({name: self._wandb.Image(picture)}, step=step)

    def close(self) -> None:
        """See `Board`."""
        if self._run is not None:
            self._run.finish()

    def _of(self, run: Run) -> Any:
        if self._run is None:
            settings = identity(run.recipe, run.data)
            place = json.dumps([str(run.out.resolve()), settings])
            options = {"id": hashlib.sha256(place.encode()).hexdigest()[:12], "resume": "allow", "config": settings}
            try:
                self._run = self._wandb.init(project="lf", name=run.out.name, dir=str(run.out), **options)
            except Exception as error:  # no account, no network, no space
                why = one_line(error)
                raise Unavailable(f"`wandb`: {why}; type: wandb login, or set WANDB_MODE=offline") from error
        return self._run


BOARDS: dict[str, Callable[[], Board]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
