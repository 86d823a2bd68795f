"""Folder of a training run: settings, log, checkpoint, and the weights with their card."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lf import __version__
from lf.core import Artifact, BadInput, Card, Step, console, files, ledger
from lf.core.fingerprint import versions
from lf.core.types import Class
from lf.formats import model_file
from lf.models import MODELS, checkpoint
from lf.train import Recipe, fake_quantize

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
SETTINGS = "recipe.json"


@dataclass
class Run:
    """State of a training run; `watch` functions receive it.

    Attributes:
        recipe: the settings.
        data: the sources of its images.
        out: its folder.
        network: the network in training mode, without wrappers.
        averaged: running mean of the network's weights, or None.
        optimiser: optimiser of the network and of the method's `extra`.
        method: makes batches and computes the loss.
        parent: origin, sha256 and licence of the weights of `init`; empty for fresh weights.
        began: versions (`made_by`) at the start of the run; empty if unknown.
        classes: the class table of a segmentation, see `lf.core.Card`.
        parts: parts of the last checked loss, in the first process.
        pace: since this start: steps per second, images per second, and the share of time spent on making views.
    """

    recipe: Recipe
    data: Sequence[str]
    out: Path
    network: nn.Module
    averaged: AveragedModel | None
    optimiser: torch.optim.Optimizer
    method: Any
    parent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    began: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: tuple[Class, ...] = ()
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    pace: dict[str, float] = dataclasses.field(default_factory=dict)

    def shipped(self) -> nn.Module:
        """Return the network with the resulting weights: the running mean if the recipe keeps one."""
        module: nn.Module = self.network if self.averaged is None else self.averaged.module
        return module

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the resulting weights with the names of the network of MODELS, rounded to their grid if quantized."""
        with torch.device("meta"):
            own = checkpoint.build(self.recipe.model).state_dict()
        return {name: value.contiguous().cpu() for name, value in fake_quantize.plain(self.shipped(), own).items()}

    def numbers(self) -> dict[str, float]:
        """Return the numbers of a step for the log."""
        pace = {name: round(value, 4) for name, value in self.pace.items()}
        return {"lr": self.optimiser.param_groups[0]["lr"], **pace, **self.parts}


def identity(recipe: Recipe, data: Sequence[str]) -> dict[str, Any]:
    """Return the settings that identify a run."""
    return {"recipe": dataclasses.asdict(recipe), "data": list(data)}


def made_by() -> dict[str, str]:
    """Return the versions of packages and code that the steps of a run depend on."""
    return {**versions("lf.train.loop"), "torch": str(torch.__version__)}


def save(run: Run, step: int) -> None:
    """Write the checkpoint after `step` steps, for `restore`."""
    state = {
        "identity": json.dumps(identity(run.recipe, run.data)),
        "step": step,
        "network": run.network.state_dict(),
        "averaged": {} if run.averaged is None else run.averaged.state_dict(),
        "extra": {} if run.method.extra is None else run.method.extra.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "method": run.method.state(),
        "versions": dict(run.began),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files.write_bytes(run.out / CHECKPOINT, buffer.getvalue())


def begin(recipe: Recipe, data: Sequence[str], out: Path) -> None:
    """Write the settings of a run into its folder."""
    ledger.Ledger(out / SETTINGS, identity(recipe, data)).write()


def read(recipe: Recipe, data: Sequence[str], out: Path, where: torch.device) -> dict[str, Any] | None:
    """Read the state of an earlier run in `out`, or return None.

    Raises:
        UsageError: the run has other settings.
        BadInput: the checkpoint is damaged.
    """
    path, own, remedy = out / CHECKPOINT, identity(recipe, data), f"choose another `out`, or begin anew: rm -r {out}"
    if not path.exists():  # a run may not have reached its first checkpoint
        ledger.resume(out / SETTINGS, own, work=out, remedy=remedy)
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=where, weights_only=True)
        owner = json.loads(state["identity"])
    except Exception as error:  # torch raises many kinds of errors on damaged files
        raise BadInput(f"{path}: not a checkpoint of lf train, or a damaged one; remove it to start again") from error
    if found := ledger.differences(owner, own):
        raise ledger.refusal(out, found, remedy)
    return state


def warn_of_change(state: Mapping[str, Any], recipe: Recipe, out: Path) -> None:
    """Warn if an unfinished run continues with other code than it began with."""
    before = state.get("versions")
    other = ledger.differences(before, made_by()) if before else []
    if other and state["step"] < recipe.steps:
        console.note(
            f"warning: {out}: this run began with other code ({'; '.join(map(str, other))}), and goes on with this; "
            "its result is not that of a run in one go"
        )


def restore(state: Mapping[str, Any], run: Run) -> int:
    """Restore a run from `state`; return the next step."""
    run.network.load_state_dict(state["network"])
    run.optimiser.load_state_dict(state["optimiser"])
    if run.averaged is not None:
        run.averaged.load_state_dict(state["averaged"])
    if run.method.extra is not None:
        run.method.extra.load_state_dict(state["extra"])
    run.method.restore(state["method"])
    return int(state["step"])


def record(path: Path, step: int, values: Mapping[str, Any]) -> None:
    """Append a line to a file of JSON lines, and remove lines of this and later steps, which a killed run left."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] < step]
    files.write_bytes(path, "".join(f"{line}\n" for line in [*kept, json.dumps({"step": step, **values})]).encode())


def publish(run: Run, path: Path, step: int | None = None) -> Artifact:
    """Write the current resulting weights of `run`, with a card that describes how they were trained.

    Args:
        run: state of the run.
        path: file to write, `.safetensors`.
        step: number of steps, if the run is not complete.
    """
    from safetensors.torch import save as pack

    row = MODELS[run.recipe.model].for_classes(len(run.classes))
    tensors = pack(run.weights())
    origin = f"lf train {run.recipe.method}, pictures: {' '.join(run.data)}"
    options = {**dataclasses.asdict(run.recipe), "data": list(run.data)}
    licence = run.parent.get("licence", "Apache-2.0")  # fine-tuned weights keep the licence of `init`
    made: dict[str, Any] = {"command": "train", "options": options}
    made["versions"] = {"lf": __version__, "torch": torch.__version__}
    if run.began and run.began != made_by():
        made["began_with"] = dict(run.began)
    if taught_by := getattr(run.method, "taught_by", None):
        made["teacher"] = taught_by
    if run.parent:
        made["parent"] = run.parent["sha256"]
    if run.recipe.weight_bits:
        scheme = f"w{run.recipe.weight_bits}" + (f"a{run.recipe.activation_bits}" if run.recipe.activation_bits else "")
        made |= {"scheme": scheme, "ranges": fake_quantize.ranges(run.shipped())}
    card = Card(
        model=run.recipe.model,
        weights={"origin": origin, "sha256": hashlib.sha256(tensors).hexdigest(), "licence": licence},
        input=(row.channels, None, None),
        outputs=dict(row.heads),
        classes=run.classes,
        made=(Step.parse(made if step in (None, run.recipe.steps) else {**made, "step": step}),),
    )
    return model_file.save(path, tensors, card)
