"""Model card of shipped weights for a hub: YAML front matter, use, limits, data, training."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from lf.core import Artifact, UsageError
from lf.core.packages import DISTRIBUTION, pip
from lf.core.steps import Step
from lf.models import COUNTED, MODELS
from lf.models.resolve import SHIPPED, resolve, shipped
from lf.train import RECIPES
from lf.train.recipe import Recipe

WORDS = SHIPPED / "cards.toml"
TAGS = ("keypoint-detection", "local-features", "image-matching", "quantization")
NOT_SET = ("model", "method", "about", "data", "init", "settings")  # set by the name of a recipe or by another option


def page(name: str) -> str:
    """Return the model card of shipped weights in Markdown.

    Raises:
        UsageError: no weights of that name ship with lf.
    """
    words = tomllib.loads(WORDS.read_text())
    networks = [each for each, path in shipped().items() if path.suffix == ".safetensors"]
    if name not in networks:
        raise UsageError(f"no weights of {name} ship with lf; there are model cards of {', '.join(networks)}")
    artifact = resolve(name)
    limits = [*words.get(name, {}).get("limits", ()), *words["every"]["limits"]]
    steps = [step for step in artifact.card.made if step.command == "train"]
    commands = "\n".join(command(name, steps, index) for index in range(len(steps)))
    parts = [
        _front(artifact),
        f"# {name}\n\n{MODELS[name].about[0].upper()}{MODELS[name].about[1:]}.",
        f"## Intended use\n\n{words.get(name, {}).get('use', 'Keypoints and descriptors of images, for matching.')}",
        "## Limits\n\n" + _list(limits),
        _usage(name),
        "## Details\n\n" + _list(_details(artifact)),
        "## Training data\n\n" + _list(dict.fromkeys(line for step in steps for line in _data(step, words["sources"]))),
        f"## Training\n\n```sh\n{commands}\n```\n\n" + _list(line for step in steps for line in _training(step)),
        "## Figures\n\nSee the documents of lf, with intervals and commands: Shipped weights; Accuracy, time and size.",
    ]
    return "\n\n".join(parts)


def command(name: str, steps: Sequence[Step], index: int) -> str:
    """Return the command of a training of shipped weights: images, and settings that differ from the recipe.

    A later training starts from the weights of the training before it.
    """
    step, places = steps[index], [name if len(steps) == 1 else f"{name}-{n + 1}" for n in range(len(steps))]
    words = ["lf", "train", name, "--out", places[index]]
    if index:
        words += ["--set", f"init={places[index - 1]}/{name}.safetensors"]
    for source in _sources(step):
        words += ["--photos", source] if source != "procedural" else []
    for setting in fields(Recipe):
        was, now = step.options.get(setting.name), getattr(RECIPES[name], setting.name)
        if was is not None and setting.name not in NOT_SET and _sides(was) != _sides(now):
            words += ["--set", f"{setting.name}={was}"]
    settings = step.options.get("settings", {})
    for key, now in RECIPES[name].settings.items():  # only settings that this lf still has
        if key in settings and _sides(settings[key]) != _sides(now):
            words += ["--set", f"{key}={settings[key]}"]
    return shlex.join(words)


def _sides(value: Any) -> Any:
    """Convert a value of a recipe: squares to pairs, tuples to lists."""
    return list(value) if isinstance(value, tuple) else [value, value] if isinstance(value, int) else value


def _front(artifact: Artifact) -> str:
    """Return the YAML front matter for model hubs."""
    licence = artifact.card.weights["licence"].lower()
    lines = [f"license: {licence}", f"library_name: {DISTRIBUTION}", "pipeline_tag: keypoint-detection", "tags:"]
    return "\n".join(["---", *lines, *(f"  - {tag}" for tag in TAGS), "---"])


def _usage(name: str) -> str:
    code = f'import lf\n\nfeatures = lf.load("{name}").extract("image.png")  # keypoints, scores, descriptors'
    return f"## How to use\n\n```sh\n{pip('torch')}\n```\n\n```python\n{code}\n```"


def _details(artifact: Artifact) -> Iterator[str]:
    row, card = MODELS[artifact.card.model], artifact.card
    yield f"{row.parameters:,} parameters, {artifact.bytes / 1e6:.2f} MB"
    yield f"{row.multiply_adds / 1e9:.2f} GMAC for an image of {COUNTED[0]}x{COUNTED[1]}"
    sides = f", sides of multiples of {row.multiple}" if row.multiple > 1 else ""
    yield f"input: {'RGB' if row.colours == 3 else 'grey'}, float32 in 0..1{sides}"
    for head, (channels, stride) in card.outputs.items():
        yield f"output `{head}`: {channels} channels at 1/{stride}"
    yield f"descriptor: {row.length} numbers of unit length"
    yield f"code: {row.code_licence}; weights: {card.weights['licence']}"
    yield f"sha256 of the weights: `{card.weights['sha256']}`"


def _sources(step: Step) -> list[str]:
    data = step.options.get("data", ())
    return [data] if isinstance(data, str) else [*data]


def _data(step: Step, known: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each source of images, from the card or, without an entry there, by the name of the source."""
    recorded = {each["source"]: f"{each['pictures']}, {each['licence']}" for each in step.extra.get("data", ())}
    for source in _sources(step):
        place, _, count = source.partition(":")
        name = place.rpartition("/")[2]
        squares = f"{count or step.options.get('pictures')} squares: "
        yield squares + (recorded.get(name) or known.get(name) or f"`{name}`")


def _training(step: Step) -> Iterator[str]:
    options = step.options
    size = "x".join(map(str, _sides(options["size"])))
    yield f"{options['steps']:,} steps of {options['batch']} pairs of {size} pixels, seed {options['seed']}"
    if step.teacher:
        yield "taught by {model} ({origin}, {licence}, sha256 {sha256})".format(**step.teacher)
    yield "made with " + ", ".join(f"{name} {version}" for name, version in step.versions.items())


def _list(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)
