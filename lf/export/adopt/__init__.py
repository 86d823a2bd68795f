"""Adopt an ONNX file of another tool: recognise it, convert it to lf's form, check it, add a card."""

from __future__ import annotations

import hashlib
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lf import __version__
from lf.core import FEATURES, Array, Artifact, BadInput, Card, UsageError, files, pick
from lf.export import to_onnx
from lf.export.adopt import checks, features, graph, heads, inputs
from lf.formats import model_file, onnx_model
from lf.models import MODELS, NETWORKS, Model, check_size, own

if TYPE_CHECKING:
    from onnx import ModelProto

SIZE = (240, 320)  # H, W of the input for a file of free size
OTHER = (200, 264)  # another size, to check that the size is free
SUFFIX = ".adopted.onnx"


@dataclass
class Job:
    """A file that is being adopted: options, current graph, findings."""

    path: Path
    name: str
    row: Model
    described: dict[str, Any]
    outputs: Mapping[str, str]
    images: Path | None
    model: ModelProto
    size: tuple[int, int] | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def shown(self, size: tuple[int, int] = SIZE) -> tuple[int, int]:
        """The size (H, W) of its images: its own, or `size` in the network's multiple."""
        step = self.row.multiple
        return self.size or (-(-size[0] // step) * step, -(-size[1] // step) * step)


def adopt(
    path: Path,
    family: str | None = None,
    out: Path | None = None,
    *,
    card: Path | None = None,
    outputs: Mapping[str, str] | None = None,
    input: str | None = None,
    size: tuple[int, int] | None = None,
    reference: Artifact | None = None,
    images: Path | None = None,
) -> Artifact:
    """Give an ONNX file of another tool a card, and its graph the form of lf's own exports.

    Args:
        path: the file; it does not change.
        family: its network: a row of MODELS, or `features` for any with the decoder in its graph.
        out: the file to write; `<name>.adopted.onnx` in the current folder by default.
        card: TOML description of a network that is not in MODELS, instead of `family`; see `lf.models.own`.
        outputs: output -> head, if shapes do not decide.
        input: range and order of the network's input, see `lf.export.adopt.inputs.parse`; None finds it on images.
        size: fixed input size (H, W) for a file of free size; None leaves it free.
        reference: the checkpoint of the file, for comparing keypoints.
        images: folder of images for the checks; None draws them.

    Raises:
        UsageError: an unknown word or network, or a choice for the user: the text says how.
        BadInput: the file is not ONNX, has a card already, fits no head, or gives no points.
        GateFailed: a check fails; nothing is written.
        Unavailable: its graph needs onnxsim, which is not installed.
    """
    out = out or Path(path.name.removesuffix(".onnx") + SUFFIX)
    if out.suffix != ".onnx":
        raise UsageError(f"{out}: adopt writes .onnx files; type: -o {out.stem}.onnx")
    files.refuse_own(out, path)
    job = _opened(path, family, card, outputs or {}, images)
    check_size(size, job.row, job.name)
    integer = graph.image_input(job.model, path)[2] == "uint8"
    job.size = graph.planar(job.model, path, job.row.channels, size, job.notes)
    _modern(job)
    told = input or job.described.get("input") or None
    tried = (
        [inputs.parse(told, job.row.channels)] if told else inputs.candidates(job.row, integer, reference is not None)
    )
    values = graph.run(graph.session(job.model), _image(job), path)
    if features.looks(values):
        shown = _features(job, tried, reference, values)
    elif family == "features" or job.described.get("detector", {}).get("part") == "features":
        raise BadInput(features.missing("keypoints", values, path))
    else:
        shown = _heads(job, tried, reference, values)
    job.model = graph.clean(job.model, path, {to_onnx.INPUT: _image(job)}, job.notes)
    inputs.insert(job.model, shown)
    return _written(job, out, shown, reference)


def _opened(path: Path, family: str | None, card: Path | None, outputs: Mapping[str, str], images: Path | None) -> Job:
    if path.suffix != ".onnx":
        raise UsageError(f"{path}: adopt takes .onnx files; a checkpoint is exported: `export({path}, to=onnx)`")
    there = model_file.read_card(path)
    if there is not None:
        raise BadInput(f"{path}: has a card already: {there.model} {there.scheme}; use the file as it is")
    if (family is None) == (card is None):
        raise UsageError(f"{path}: name its network, `family=superpoint` for example, or describe it: `card=net.toml`")
    described: dict[str, Any] = {}
    if card is not None:
        described = description(card)
        name, row = described["name"], own.row(described["name"], described)
        outputs = {**described["outputs"], **outputs}
    elif family == "features":
        name, row = "features", own.row("features", own.of_features(1, features.SHORTEST))
    else:
        name = family or ""
        row = pick({**NETWORKS, "features": MODELS["superpoint"]}, name, "network")
    if row.prepare:
        raise UsageError(
            f"{path}: {name} prepares images on the host, which adopt does not support; export its checkpoint"
        )
    notes: dict[str, Any] = {"warnings": []}
    model = graph.read(path, notes)
    if found := [
        node.op_type for node in onnx_model.nodes(model) if any(w in node.op_type for w in onnx_model.INTEGER)
    ]:
        raise BadInput(
            f"{path}: is quantized already: it holds {found[0]}; adopt the float file, then type: "
            "`quantize(ADOPTED.onnx, images=DIR)`"
        )
    if name == "features" and not described:
        channels = next((side for side in graph.image_input(model, path)[1][1::2] if side in (1, 3)), 1)
        described = own.of_features(channels, features.SHORTEST)
        row = own.row(name, described)
    return Job(path, name, row, described, outputs, images, model, notes=notes)


def description(card: Path) -> dict[str, Any]:
    """The complete description in a TOML card.

    Raises:
        BadInput: not TOML, or not a description.
        UsageError: its name is that of a row of MODELS.
    """
    try:
        given = tomllib.loads(files.read_bytes(card, "a TOML card").decode())
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{card}: not TOML: {error}") from error
    full = own.complete(given, str(card))
    own.refuse_known(full["name"], MODELS, str(card))
    return full


def _image(job: Job, size: tuple[int, int] = SIZE) -> Array:
    """Return an image (1, C, H, W) in 0..1 that the graph can take."""
    shown = job.shown(size)
    return inputs.tensor(inputs.view(next(inputs.pictures(shown, None, 1)), shown), job.row.channels)


def _modern(job: Job) -> None:
    """Convert the graph to lf's operator set, and check that a free size works."""
    probe = {to_onnx.INPUT: _image(job)}
    graph.run(graph.session(job.model), probe[to_onnx.INPUT], job.path)
    job.model = graph.modern(job.model, probe, job.notes)
    if job.size is None:
        graph.run(graph.session(job.model), _image(job, OTHER), job.path)


def _heads(
    job: Job, tried: list[inputs.Variant], reference: Artifact | None, values: Mapping[str, Array]
) -> inputs.Variant:
    """End the graph at the raw heads; return the variant of the input."""
    kinds = heads.kinds_of(job.row, job.described.get("detector", {}).get("values", "logits"))
    image = _image(job)
    chosen = heads.assign(values, job.row, job.outputs, job.shown(), job.path, kinds)
    found = heads.locate(job.model, chosen, kinds, image, job.path)
    unused = [name for name in values if name not in {place.output for place in found.values()}]
    heads.cut(job.model, found, job.row, job.size)
    opened = graph.session(job.model)
    heads.compare(graph.run(opened, image, job.path), values, found, job.shown(), job.path)
    job.notes["heads"] = {head: place.said() for head, place in found.items()}
    if unused:
        job.notes["outputs left out"] = unused

    def decode(fed: Array) -> tuple[Array, Array, Array]:
        maps = graph.run(opened, fed, job.path)
        return job.row.decode({name: value[0] for name, value in maps.items()}, **job.row.settings)

    return _fed(job, tried, decode, reference)


def _features(
    job: Job, tried: list[inputs.Variant], reference: Artifact | None, values: Mapping[str, Array]
) -> inputs.Variant:
    """End the graph with features in lf's form; return the variant of the input."""
    found = features.assign(values, job.outputs, job.path)
    opened, size = graph.session(job.model), job.shown()

    def decode(fed: Array) -> tuple[Array, Array, Array]:
        return features.decode(graph.run(opened, fed, job.path), found)

    shown = _fed(job, tried, decode, reference)
    seen = [
        graph.run(opened, shown.fed(inputs.tensor(inputs.view(picture, size), job.row.channels)), job.path)
        for picture in inputs.pictures(size, job.images)
    ]
    facts, depth = features.observe(seen, found, size, job.path), features.length(values, found)
    if job.described:
        job.described["descriptor"]["length"] = depth
    elif depth != job.row.length:
        raise BadInput(
            f"{job.path}: its descriptors have {depth} numbers, those of {job.name} {job.row.length}; "
            "type: `family=features`"
        )
    features.end(job.model, found, facts, depth)
    job.notes["features"] = {"outputs": found, **facts}
    if facts["slots"] == "varying":
        job.notes["warnings"].append(
            "the number of keypoints varies with the image; engines with fixed shapes, such as TensorRT, "
            "may refuse that; for them export the extractor with a fixed number of keypoints"
        )
    return shown


def _fed(job: Job, tried: list[inputs.Variant], decode: inputs.Decode, reference: Artifact | None) -> inputs.Variant:
    """Find the variant of the input with which the network was trained."""
    if len(tried) == 1:
        job.notes["values"] = inputs.notes_of(tried[0], {}, "")
        return tried[0]
    size = job.shown()
    views = list(inputs.pictures(size, job.images))
    if not views:
        raise BadInput(f"{job.images}: no image to check the file on")
    figure = "points of the reference" if reference else "repeatability"
    if reference:
        measured = checks.likeness(decode, tried, reference, views, size)
        best = max(measured, key=lambda name: measured[name])
    else:
        measured = {each.name: inputs.repeatability(decode, each, views, job.row, size) for each in tried}
        best = inputs.choose(measured, job.path)
    shown = next(each for each in tried if each.name == best)
    job.notes["values"] = inputs.notes_of(shown, measured, figure)
    return shown


def _written(job: Job, out: Path, shown: inputs.Variant, reference: Artifact | None) -> Artifact:
    """Check the candidate, and write it."""
    import onnx
    import onnxruntime

    data = job.path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    job.model.producer_name, job.model.producer_version = "lf", __version__
    onnx.checker.check_model(job.model, full_check=False)
    decoded = "features" in job.notes
    if decoded:
        depth = job.described["descriptor"]["length"] if job.described else job.row.length
        given = {name: (count, 0) for name, count in zip(FEATURES, (2, 1, depth), strict=True)}
    else:
        given = dict(job.row.heads)
    weights = {"origin": job.path.name, "sha256": sha256, "licence": job.row.licence}
    card = Card(
        *(job.name, weights, (job.row.channels, *(job.size or (None, None)))), outputs=given, network=job.described
    )
    size = job.shown()
    with tempfile.TemporaryDirectory(prefix="lf-adopt-") as folder:
        candidate = model_file.save(Path(folder, job.path.name), job.model.SerializeToString(), card)
        figures = checks.check(candidate, size, job.images)
        if reference:
            figures["reference"] = checks.against(candidate, reference, size, job.images)
    versions = {"lf": __version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    options = {"network": job.name, "outputs": dict(job.outputs), "input": shown.name}
    step = {"command": "adopt", "options": options, "parent": sha256, "versions": versions, **job.notes}
    return model_file.save(out, job.model.SerializeToString(), card.step(made={**step, "checks": figures}))
