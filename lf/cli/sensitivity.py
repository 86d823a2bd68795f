"""`lf sensitivity`: rank layers by the cost of quantizing each alone."""

from __future__ import annotations

from lf.cli import options as opt
from lf.core import Artifact, console

EXAMPLES = (
    "lf sensitivity wren.onnx --images PHOTOS --data warps:OTHERS --out DIR",
    "lf sensitivity wren --images PHOTOS --scheme w4a8 --protocol mma --out DIR",
)


def sensitivity(
    model: opt.File,
    out: opt.Folder,
    data: opt.Data = opt.PROCEDURAL,
    protocol: opt.Protocols = None,
    limit_sequences: opt.Sequences = None,
    scheme: opt.Scheme = "w8a8",
    images: opt.Images = None,
    calibration: opt.Calibration = None,
    limit: opt.Limit = None,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Measure what quantizing each layer alone costs."""
    from lf.benchmarks.report import ranking
    from lf.studies.budget_search import check_study, study_layers
    from lf.studies.float_onnx import float_onnx_of

    photos = {"calibration": calibration, "limit": limit, "seed": seed}

    def check(_: Artifact) -> None:
        check_study(scheme, protocol, images, photos)

    with float_onnx_of(model, out, check) as parent, console.progress() as progress:
        found = study_layers(parent, out, data, images, scheme, protocol, limit_sequences, photos, progress)
    if json:
        console.as_json(ranking.document(found.journal.identity, found.rows))
        console.note(f"wrote {found.journal.path} and {found.picture}")
        return
    console.result(f"{parent.path.name} {scheme}, {', '.join(found.protocols)} on {data}")
    console.result(ranking.table(found.rows))
    console.result(found.journal.path)
    console.result(found.picture)
