"""Make the files of a sweep from the same parents with the same settings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lf.benchmarks import PROTOCOLS
from lf.core import Artifact, BadInput, ConversionFailed, GateFailed, UsageError, console, ledger
from lf.core.fingerprint import versions
from lf.data.images import list_images
from lf.formats import model_file
from lf.models import row_of
from lf.models.resolve import resolve
from lf.quantize import SCHEMES, WRITERS, quantize
from lf.quantize.calibrate.photos import digest
from lf.studies.sweep_plan import FLOAT, Network, Plan, Row

DECODED = "the file decodes in its graph, and only raw heads are quantized; give the file with raw heads"
OPTIONS: dict[str, type] = {  # options of `lf.quantize.quantize`
    "calibration": str,
    "limit": int,
    "seed": int,
    "bits": dict,
    "rounding": str,
}


def make(plan: Plan, out: Path, progress: console.Progress | None) -> list[Row]:
    """Make missing files in `out/models`; return the rows of the tables, network by network, float first.

    Args:
        plan: the plan.
        out: folder of the sweep.
        progress: (done, total, text); None only lists existing files.

    Raises:
        UsageError: a file is not float, has another size than the protocols, or belongs to another network.
        BadInput: a calibration photo is in the data.
    """
    folder, rows = out / "models", list[Row]()
    photos = _photos(plan)
    opened = [(network, resolve(network.file)) for network in plan.networks]
    suffix = WRITERS[plan.writer].suffix
    added = {
        network.name: [_added(network.name, name, path, of, suffix) for name, path in network.add.items()]
        for network, of in opened
    }
    _refuse_leak(plan, photos, [row for some in added.values() for row in some])
    for network, parent in opened:
        if not row_of(parent.card).module and not parent.card.features:  # nothing is made from a baseline
            rows.append(Row(network.name, FLOAT, parent))
            continue
        base = _float(network, parent, folder, progress)
        base = base and _fit(base, plan)
        runs = base if suffix == ".onnx" or not base else _exported(network, base, suffix, folder, progress)
        rows.append(Row(network.name, FLOAT, runs))
        for scheme in network.schemes:
            rows.append(_scheme(network, base, scheme, plan, photos, folder, progress))
        rows += added[network.name]
    return rows


def _photos(plan: Plan) -> dict[str, str]:
    """Return the names of calibration photos by sha256."""
    return {digest(path): path.name for path in list_images(plan.images)} if plan.images else {}


def _added(network: str, name: str, path: Path, of: Artifact, suffix: str) -> Row:
    artifact = model_file.load(path)
    if artifact.path.suffix != suffix or artifact.card.model != of.card.model:
        raise UsageError(
            f"{path}: is {artifact.card.model} {path.suffix}; beside {of.path.name} stands another {suffix} file of "
            f"{of.card.model}"
        )
    return Row(network, name, artifact)


def _refuse_leak(plan: Plan, photos: dict[str, str], added: list[Row]) -> None:
    """Raise BadInput if a calibration photo of a file is in a folder of the data."""
    used = dict(photos)
    for row in added:
        for step in row.artifact.card.made if row.artifact else ():
            used |= step.photos
    for data in plan.data:
        for path in list_images(data.folder) if data.folder and used else ():
            if name := used.get(digest(path)):
                raise BadInput(
                    f"{path} of data {data.name} is {name}, which files are calibrated on; take other photos"
                )


def _fit(artifact: Artifact, plan: Plan) -> Artifact:
    """Return the ONNX file, fixed to the size of the protocols if files of the writer have a fixed size.

    The size is the input size for the protocols' images, see `Model.fitted`.

    Raises:
        UsageError: its fixed size is not that of a protocol, or the protocols have several sizes.
    """
    sizes = {name: PROTOCOLS[name].size for data in plan.data for name in data.protocols}
    size, one_size = artifact.card.size, WRITERS[plan.writer].one_size
    if one_size and (None in sizes.values() or len({*sizes.values()}) > 1):
        several = ", ".join(f"{name} at {'x'.join(map(str, of)) if of else 'any'}" for name, of in sizes.items())
        raise UsageError(f"files for {plan.backend} take one size, and this plan has {several}; make a plan for each")
    row = row_of(artifact.card)
    shown = {name: row.fitted(of) if of and row.prepare else of for name, of in sizes.items()}
    other = [name for name, of in shown.items() if of != size]
    if size and other:
        fits = ", ".join(name for name, protocol in PROTOCOLS.items() if protocol.size == size)
        raise UsageError(
            f"{artifact.path} takes {size[0]}x{size[1]} only, other sizes are evaluated by {', '.join(other)}; "
            f"export it again with a free size{f', or take {fits}' if fits else ''}"
        )
    if not one_size:
        return artifact
    shape = (artifact.card.input[0], *(plan.size or next(of for of in shown.values() if of)))
    return replace(artifact, card=replace(artifact.card, input=shape))


def _float(network: Network, parent: Artifact, folder: Path, progress: console.Progress | None) -> Artifact | None:
    """Make the float ONNX file, from which all others are made."""
    if parent.card.scheme != FLOAT:
        raise UsageError(f"{parent.path}: is {parent.card.scheme}; a sweep starts from float, put this one under add")
    if parent.path.suffix == ".onnx":
        return parent
    return _exported(network, parent, ".onnx", folder, progress, size=None)


def _exported(
    network: Network,
    parent: Artifact,
    suffix: str,
    folder: Path,
    progress: console.Progress | None,
    **options: Any,
) -> Artifact | None:
    """Export `parent` to a float file with this name in `folder`."""
    from lf.export import TARGETS, export

    target = next(name for name, row in TARGETS.items() if row.suffix == suffix)
    path, recipe = folder / f"{network.name}{suffix}", {**_recipe("lf.export", parent), **_size(parent)}
    if progress:
        progress(0, 1, f"exporting {network.name} to {target}")
    return _once(path, recipe, partial(export, parent, target, path, **options) if progress else None)[0]


def _recipe(module: str, parent: Artifact) -> dict[str, Any]:
    """Return the identity of a file: its parent, options and code."""
    return {**versions(module), "parent": parent.sha256}


def _size(artifact: Artifact) -> dict[str, Any]:
    return {"size": list(artifact.card.size)} if artifact.card.size else {}


def _scheme(
    network: Network,
    base: Artifact | None,
    scheme: str,
    plan: Plan,
    photos: dict[str, str],
    folder: Path,
    progress: console.Progress | None,
) -> Row:
    """Make the row of a quantized file; if its checks refuse it, the row has the reason."""
    if base is None:  # a dry run makes no files
        return Row(network.name, scheme, None)
    if base.card.features:
        return Row(network.name, scheme, None, DECODED)
    suffix, options = WRITERS[plan.writer].suffix, dict(network.options.get(scheme, {}))
    path = folder / f"{network.name}.{scheme}{suffix}"
    recipe = {
        **_recipe("lf.quantize", base),
        **_size(base),
        "scheme": scheme,
        "options": options,
        "photos": sorted(photos) if SCHEMES[scheme].calibrated else [],
    }
    make: Callable[[], Artifact] | None = None
    if progress:
        says = _within(f"{network.name} {scheme}:", progress)
        make = partial(quantize, base, scheme, plan.images, path, writer=plan.writer, progress=says, **options)
    made, refused = _once(path, recipe, make)
    return Row(network.name, scheme, made, refused.replace(str(base.path), base.path.name))


def with_decode(row: Row, out: Path, progress: console.Progress) -> Row | None:
    """Make the same file with the decoder in the graph, as `lf export --cut features`; None if it is not ONNX."""
    from lf.export import export

    parent = row.artifact
    if parent is None or parent.path.suffix != ".onnx":
        return None
    name = f"{row.scheme}.features"
    path = out / "models" / f"{row.network}.{name}.onnx"
    progress(0, 1, f"{row.network} {row.scheme}: the decode into its graph")
    try:
        made, refused = _once(path, _recipe("lf.export", parent), partial(export, parent, "onnx", path, cut="features"))
    except (UsageError, GateFailed) as error:  # errors of this network or file
        made, refused = None, str(error)
    return Row(row.network, name, made, refused)


def _within(what: str, progress: console.Progress) -> console.Progress:
    return lambda done, total, text: progress(done, total, f"{what} {text}")


def _once(path: Path, recipe: dict[str, Any], make: Callable[[], Artifact] | None) -> tuple[Artifact | None, str]:
    """Return the file at `path` if this recipe made it, or else call `make`, if given; or the reason of refusal.

    The recipe and the result are stored beside the file.
    """
    record = ledger.resume(path.with_name(f"{path.name}.json"), recipe, "restart")
    if refused := record.content.get("refused"):
        return None, refused
    if sha256 := record.content.get("sha256"):
        with suppress(BadInput):  # missing or damaged: make again
            artifact = model_file.load(path)
            if artifact.sha256 == sha256:
                return artifact, ""
    if make is None:
        return None, ""
    try:
        artifact = make()
    except ConversionFailed as error:
        record.write(refused=str(error))
        return None, str(error)
    record.write(sha256=artifact.sha256)
    return artifact, ""
