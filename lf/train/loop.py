"""The one training loop: seeds, schedule, clipping, checkpoint, exact resume, progress. A method gives the loss."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lf import __version__, files
from lf.core import Artifact, BadInput, Card, LfError, Unavailable, UsageError, pick
from lf.models import MODELS, checkpoint
from lf.train import Recipe
from lf.train.pictures import Progress, collect

CHECKPOINT = "checkpoint.pt"
EVERY = 250  # steps between checkpoints


def train(recipe: Recipe, data: str, out: Path, *, device: str, threads: int, progress: Progress) -> Artifact:
    """Run `recipe` on `data` and write `out/<model>.safetensors`; continue where an earlier run in `out` stopped.

    Raises:
        UsageError: `out` holds a run of another recipe, or cannot be written.
        BadInput: `data` holds no pictures, or the checkpoint in `out` is damaged.
        Unavailable: the device is not there.
        LfError: the loss is not finite; the last good checkpoint stays.
    """
    where = _device(device)
    state = _read(recipe, data, out, where)
    files.write_json(out / "recipe.json", _settings(recipe, data))  # an `out` that cannot be written is found now
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    module = importlib.import_module(f"lf.train.{recipe.method}")
    built: Any = checkpoint.build(recipe.model)  # the stubs of Module.to know no memory_format
    network: nn.Module = built.to(where, memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    method = module.Method(recipe, collect(recipe, data, progress), where)
    seen = _restore(state, network, optimiser, method) if state else 0
    started, first = time.monotonic(), seen
    for step in range(seen, recipe.steps):
        method.begin_step(step, network)
        for group in optimiser.param_groups:
            group["lr"] = _rate(recipe, step)
        loss, parts = method.loss(network, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        if not math.isfinite(float(loss.detach() + norm)):
            raise LfError(f"the loss or its gradient is not finite at step {step}; {_last(out)}; lower lr")
        optimiser.step()
        text = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
        progress(step + 1, recipe.steps, text)
        if (step + 1) % EVERY == 0 or step + 1 == recipe.steps:
            _save(recipe, data, out, step + 1, network, optimiser, method)
            _log(out, step + 1, (time.monotonic() - started) / (step + 1 - first), parts)
    return _publish(recipe, data, out, network)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    pick({"cpu": 0, "cuda": 0}, name, "device")
    if name == "cuda" and not torch.cuda.is_available():
        raise Unavailable("device cuda was asked for, this torch sees no GPU; use --device cpu, or see: lf doctor")
    return torch.device(name)


def _rate(recipe: Recipe, step: int) -> float:
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))


def _settings(recipe: Recipe, data: str) -> dict[str, Any]:
    return {"recipe": dataclasses.asdict(recipe), "data": data}


def _last(out: Path) -> str:
    return f"the last good state is {out / CHECKPOINT}" if (out / CHECKPOINT).exists() else "there is no state to keep"


def _save(
    recipe: Recipe,
    data: str,
    out: Path,
    step: int,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    method: Any,
) -> None:
    state = {
        "identity": json.dumps(_settings(recipe, data)),
        "step": step,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "method": method.state(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files.write_bytes(out / CHECKPOINT, buffer.getvalue())


def _read(recipe: Recipe, data: str, out: Path, where: torch.device) -> dict[str, Any] | None:
    """The state of an earlier run in `out`, or None."""
    path = out / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=where, weights_only=True)
        identity = state["identity"]
    except Exception as error:  # torch raises a dozen kinds on damaged files
        raise BadInput(f"{path}: not a checkpoint of lf train, or a damaged one; remove it to start again") from error
    if identity != json.dumps(_settings(recipe, data)):
        raise UsageError(f"{path}: belongs to a run with other settings; choose another --out, or remove it")
    return state


def _restore(state: dict[str, Any], network: nn.Module, optimiser: torch.optim.Optimizer, method: Any) -> int:
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    method.restore(state["method"])
    return int(state["step"])


def _log(out: Path, step: int, seconds: float, parts: dict[str, float]) -> None:
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "seconds_per_step": round(seconds, 4), **parts}) + "\n")


def _publish(recipe: Recipe, data: str, out: Path, network: nn.Module) -> Artifact:
    from safetensors.torch import save

    row = MODELS[recipe.model]
    tensors = save({name: value.contiguous().cpu() for name, value in network.state_dict().items()})
    origin = f"lf train {recipe.method} --data {data}"
    card = Card(
        model=recipe.model,
        weights={"origin": origin, "sha256": hashlib.sha256(tensors).hexdigest(), "licence": "Apache-2.0"},
        input=(row.channels, None, None),
        outputs=dict(row.heads),
        made=(
            {
                "command": "train",
                "options": {**dataclasses.asdict(recipe), "data": data},
                "versions": {"lf": __version__, "torch": torch.__version__},
            },
        ),
    )
    return files.save(out / f"{recipe.model}.safetensors", tensors, card)
