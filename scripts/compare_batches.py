"""What batches gain: `python -m scripts.compare_batches FILE.onnx ... [--backend=ort-cpu] [--threads=1]`.

Files of `lf export` take one image at a time. Here copies of them take any number, and the network alone runs 8 drawn
images of 480x640 at once, 4 and 4, 2 by 2 and one by one, in turns. Milliseconds for an image are those of the clock
and of the processor; the latter do not count what else runs on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lf.benchmarks.report.tables import markdown
from lf.core import Array, Artifact
from lf.extraction.agreement import drawn
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.runtimes import open_session
from scripts import turns

BATCHES, SIZE, WARM_UP, TURNS = (1, 2, 4, 8), (480, 640), 1, 10


def freed(artifact: Artifact, folder: Path) -> Artifact:
    """A copy of an ONNX file that takes any number of images at a time."""
    import onnx

    model = onnx.load(artifact.path)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        sides = value.type.tensor_type.shape.dim
        if len(sides) == 4 and sides[0].dim_value == 1:
            sides[0].dim_param = "batch"
    path = folder / artifact.path.name
    onnx.save(model, path)
    return Artifact(path, artifact.card)


def measure(artifact: Artifact, backend: str, threads: int) -> tuple[Array, list[bool]]:
    """(turns, batches, 2) milliseconds by the clock and the processor; whether each batch gives equal maps."""
    extractor = Extractor(artifact, backend, threads)
    given = np.concatenate([extractor.tensor(extractor.fit(picture)) for picture in islice(drawn(SIZE), BATCHES[-1])])
    singly = [extractor.session.run(image[None]) for image in given]
    with TemporaryDirectory(prefix="lf-batches-") as folder:
        session = open_session(freed(artifact, Path(folder)), backend, threads)
    equal, rows = [], []
    for size in BATCHES:
        made = session.run(given[:size])
        equal.append(all(np.array_equal(made[name][i], singly[i][name][0]) for name in made for i in range(size)))
    for _ in range(WARM_UP + TURNS):
        taken = []
        for size in BATCHES:
            wall, cpu = time.perf_counter(), time.process_time()
            for begin in range(0, len(given), size):
                session.run(given[begin : begin + size])
            taken.append([time.perf_counter() - wall, time.process_time() - cpu])
        rows.append(taken)
    return np.array(rows[WARM_UP:]) * 1e3 / len(given), equal


def main(words: list[str], given: Mapping[str, str]) -> str:
    """The table; ratios to one image at a time, within turns."""
    backend, threads = given.get("backend", "ort-cpu"), turns.number(given, "threads", 1)
    rows = []
    for word in words:
        spent, equal = measure(model_file.load(Path(word)), backend, threads)
        for index, size in enumerate(BATCHES):
            ratios = [turns.times(spent[:, index, clock], spent[:, 0, clock]) for clock in (0, 1)]
            shown = [f"{ms:.1f}" for ms in np.median(spent[:, index], axis=0)]
            rows.append([Path(word).name, str(size), *shown, *ratios, "yes" if equal[index] else "no"])
    head = [f"{backend}, threads: {threads}", "batch", "ms", "CPU ms", "ms / single", "CPU ms / single", "equal maps"]
    return markdown(head, rows)


if __name__ == "__main__":
    turns.command("compare_batches FILE.onnx ... [--backend=ort-cpu] [--threads=1]", 1, None, main)
