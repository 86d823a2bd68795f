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
OPTIONS: dict[str, type] = {  # of `lf.quantize.quantize`
    "calibration": str,
    "limit": int,
    "seed": int,
    "bits": dict,
    "rounding": str,
}


def make(plan: Plan, out: Path, progress: console.Progress | None) -> list[Row]:
    """The rows of the tables, network by network, float first; files that are not there are made in `out/models`.

    Args:
        plan: what is asked for.
        out: folder of the sweep.
        progress: (done, total, text); None to make nothing and see what is there.

    Raises:
        UsageError: a file that is not float, has another size than the protocols, or is of another network.
        BadInput: a photo to calibrate on is in the data.
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
        if not row_of(parent.card).module and not parent.card.features:  # a baseline, of which nothing is made
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
    """sha256 -> name of the photos to calibrate on."""
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
    """Raise BadInput if a photo that calibrated a file, or is to, lies in a folder of the data."""
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
    """The same ONNX file, of the one size of the protocols where the writer's files have only one.

    That size is what the network is shown of the protocols' pictures, see `Model.fitted`.

    Raises:
        UsageError: it takes one size only and a protocol evaluates at another, or the protocols have several.
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
    """The ONNX file that all others are made from."""
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
    """The float file with such a name that `parent` becomes, in `folder`."""
    from lf.export import TARGETS, export

    target = next(name for name, row in TARGETS.items() if row.suffix == suffix)
    path, recipe = folder / f"{network.name}{suffix}", {**_recipe("lf.export", parent), **_size(parent)}
    if progress:
        progress(0, 1, f"exporting {network.name} to {target}")
    return _once(path, recipe, partial(export, parent, target, path, **options) if progress else None)[0]


def _recipe(module: str, parent: Artifact) -> dict[str, Any]:
    """Identity of a file: its parent, options and code."""
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
    """The row of one quantized file; of one that its guards refuse, with what they say."""
    if base is None:  # not made in a dry run
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
    """The same file with its decode in the graph, as `lf export --cut features` makes it; None if it is not ONNX."""
    from lf.export import export

    parent = row.artifact
    if parent is None or parent.path.suffix != ".onnx":
        return None
    name = f"{row.scheme}.features"
    path = out / "models" / f"{row.network}.{name}.onnx"
    progress(0, 1, f"{row.network} {row.scheme}: the decode into its graph")
    try:
        made, refused = _once(path, _recipe("lf.export", parent), partial(export, parent, "onnx", path, cut="features"))
    except (UsageError, GateFailed) as error:  # of this network, or of this file
        made, refused = None, str(error)
    return Row(row.network, name, made, refused)


def _within(what: str, progress: console.Progress) -> console.Progress:
    return lambda done, total, text: progress(done, total, f"{what} {text}")


def _once(path: Path, recipe: dict[str, Any], make: Callable[[], Artifact] | None) -> tuple[Artifact | None, str]:
    """The file at `path` if it was made by this recipe, else by `make`, if any; or why its guards refuse it.

    What was made, and of what, is kept beside it.
    """
    record = ledger.resume(path.with_name(f"{path.name}.json"), recipe, "restart")
    if refused := record.content.get("refused"):
        return None, refused
    if sha256 := record.content.get("sha256"):
        with suppress(BadInput):  # absent or damaged: made again
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
