"""Tables of reconstruction and localization: one row per place, and intervals over images."""

from __future__ import annotations

from lf.benchmarks.report import tables
from lf.benchmarks.report.header import header
from lf.benchmarks.run.record import Run

MODEL = {  # field of `Run.reconstructions` -> column, and whether it is a count
    "registered_images": ("registered", True),
    "images": ("of images", True),
    "sparse_points": ("points", True),
    "observations": ("observations", True),
    "track_length": ("track", False),
    "observations_per_image": ("per image", False),
    "reprojection_error": ("reproj. px", False),
    "inlier_pairs": ("inlier pairs", True),
    "inlier_matches": ("inlier matches", True),
}
CAMERAS = {
    "centre_error_mean_mm": "centre mm",
    "centre_error_median_mm": "median mm",
    "rotation_error_mean_deg": "rotation deg",
}
EMPTY = "nothing was registered in"
NAMED = 5  # number of unregistered images to name


def page(run: Run) -> str:
    """Output of `lf sfm` and `lf localize`."""
    empty = [name for name, model in run.reconstructions.items() if not model.get("sparse_points")]
    says = f"{EMPTY} {', '.join(empty)}: the model is empty, and errors are undefined" if empty else ""
    return "\n\n".join(filter(None, [header(run), models(run), says, lost(run), tables.averages([run])]))


def lost(run: Run) -> str:
    """Name the images that were not registered, a line for each place with points; empty if all were registered."""
    lines = []
    for place, model in run.reconstructions.items():
        names = [image.pair for image in run.pairs if image.sequence == place and not image.value("registered")]
        if names and model.get("sparse_points"):
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            lines.append(f"not registered in {place}: {', '.join(names[:NAMED])}{more}")
    return "\n".join(lines)


def models(run: Run) -> str:
    """Format a row for each place, with the errors of its cameras if their poses are known."""
    aligned = [name for name in CAMERAS if any(name in model for model in run.reconstructions.values())]
    head = ["model", "scheme", "place", *(name for name, _ in MODEL.values()), *(CAMERAS[name] for name in aligned)]
    rows = []
    for place, model in run.reconstructions.items():
        cells = [_cell(model.get(name), count) for name, (_, count) in MODEL.items()]
        errors = [_cell(model.get(name), False) for name in aligned]
        rows.append([run.artifact.model, run.artifact.scheme, place, *cells, *errors])
    return tables.markdown(head, rows)


def _cell(value: float | None, count: bool) -> str:
    return "-" if value is None else f"{value:.0f}" if count else tables.digits(value)
