"""Run: results of one file, engine, dataset and protocol. All fields: docs/reference/results-file.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from lf.benchmarks import METRICS, aggregate
from lf.benchmarks.protocols.summary import CONFUSION, interval, paired
from lf.benchmarks.timing.record import Timing
from lf.core import FEATURES, Array, BadInput
from lf.core.records import OWN, Record
from lf.core.steps import Step

Values = Mapping[str, float | None]  # metric -> number, None if undefined
Splits = Mapping[str, Values]
Identity = tuple[Any, ...]  # equal for two runs of the same measurement, see `Subject.identity`


@dataclass(frozen=True, kw_only=True)
class Evaluated(Record):
    """The file that was evaluated: its card, name, digest and size; of stored features their layout."""

    model: str
    weights: Mapping[str, str] = field(default_factory=dict)
    input: list[int | None] = field(default_factory=list)
    scheme: str
    layout: str | None = None
    outputs: Mapping[str, list[int]] = field(default_factory=dict)
    made: list[Step] = field(default_factory=list)
    schema: int | None = None
    file: str | None = None
    sha256: str | None = None
    bytes: int | None = None

    @property
    def megabytes(self) -> str:
        """Size for tables, in MB."""
        return "-" if self.bytes is None else f"{self.bytes / 1e6:.2f}"

    @property
    def stem(self) -> str:
        """Name of the file without its suffix; the model if an older results file has no name."""
        return Path(self.file or self.model).stem


@dataclass(frozen=True, kw_only=True)
class Environment(Record):
    """Environment of a run: engine, machine, versions, command, commit, time.

    Attributes:
        machine: machine of a pool or reached by SSH that computed the run.
        timed_on: machine that measured the times, if it is another.
    """

    machine: str | None = None
    timed_on: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    threads: int | None = None
    cpu: str | None = None
    cpu_flags: list[str] = field(default_factory=list)
    cores: int | None = None
    cores_allowed: int | None = None
    os: str | None = None
    python: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    command: str | None = None
    time: str | None = None


@dataclass(frozen=True, kw_only=True)
class PairScores(Record):
    """The metrics of one pair, in `extra`; for a labelled image, its confusion matrix."""

    EXTRA: ClassVar[Any] = float | None

    sequence: str
    pair: str
    confusion: list[list[int]] | None = None

    @property
    def name(self) -> tuple[str, str]:
        """Sequence and pair."""
        return self.sequence, self.pair

    def value(self, metric: str) -> Any:
        """Return the value of a metric, or the confusion matrix; None if undefined or missing."""
        return self.confusion if metric == CONFUSION else self.extra.get(metric)


@dataclass(frozen=True, kw_only=True)
class ClassScore(Record):
    """A class of a segmentation over all images: IoU, None if neither truth nor prediction has it; number of pixels."""

    name: str
    iou: float | None
    pixels: int


@dataclass(frozen=True, kw_only=True)
class Subject(Record):
    """The evaluated subject: file, engine, source of keypoints, input size, and settings of the choice of points."""

    artifact: Evaluated
    keypoints: str | None = None
    input_size: list[int] | None = None
    nms: int | None = None
    refine: str | None = None
    threshold: float | None = None
    extraction: str | None = None
    backend: str
    provider: str | None = None

    def identity(self, protocol_digest: str, dataset_digest: str, threads: int | None = None) -> Identity:
        """Return values that are equal for two runs of a measurement; `threads` counts if only times are measured."""
        size = tuple(self.input_size or ())
        how = (self.backend, self.keypoints, size, self.nms, self.refine, self.threshold, self.extraction)
        return (self.artifact.sha256, threads, *how, protocol_digest, dataset_digest)


class Drop(NamedTuple):
    """A metric of two runs, over the pairs where both have a value.

    Attributes:
        first, second: the number of the reference, and of the run.
        n: number of pairs.
        drop: how much worse the run is, in the unit of the metric; above 0 is always worse.
        draws: the drop over resampled pairs; None for too few pairs, see `lf.benchmarks.protocols.summary.paired`.
        lost: decrease of the number of pairs with a value, see `lf.benchmarks.protocols.summary.Change`.
    """

    first: float
    second: float
    n: int
    drop: float
    draws: Array | None
    lost: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the drop."""
        return None if self.draws is None else interval(self.draws)


@dataclass(frozen=True, kw_only=True)
class Run(Subject, Timing):
    """One run of a results file: the evaluated `Subject`, its scores, and its `Timing`."""

    protocol: str
    protocol_digest: str
    protocol_details: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    dataset_digest: str
    environment: Environment = field(default_factory=Environment)
    summary: Values
    counts: Mapping[str, int] = field(default_factory=dict)
    intervals: Mapping[str, list[float] | None] = field(default_factory=dict)
    by_split: Splits = field(default_factory=dict)
    counts_by_split: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    intervals_by_split: Mapping[str, Mapping[str, list[float] | None]] = field(default_factory=dict)
    pairs: list[PairScores]
    classes: list[ClassScore] = field(default_factory=list)
    reconstructions: Mapping[str, Values] = field(default_factory=dict)
    image_size: list[int] | None = None

    @property
    def measured(self) -> Identity:
        """Identity of the measurement."""
        threads = self.environment.threads if self.image_size else None
        return self.identity(self.protocol_digest, self.dataset_digest, threads)

    @property
    def unit(self) -> str:
        """Kind of its records: pairs, images with labels, or images of a reconstruction."""
        alone = self.reconstructions or self.protocol_details.get("truth") == "classes"
        return "images" if alone else "pairs"

    @property
    def label(self) -> str:
        """Name for tables and messages, for example `wren at sift w8a8 ort-cpu at 180x240 nms 4`."""
        return self.named("model", "keypoints", "scheme", "backend", "settings")

    def named(self, *parts: str) -> str:
        """Return a name made of `parts`: model, keypoints, scheme, cut, backend, threads, protocol, settings."""
        size = "at {}x{}".format(*self.input_size) if self.input_size else ""
        least = "" if self.threshold is None else f"threshold {self.threshold:g}"
        asked = (
            size,
            f"nms {self.nms}" if self.nms else "",
            f"refine {self.refine}" if self.refine else "",
            least,
            self.extraction or "",
        )
        known = {
            "model": self.artifact.model,
            "keypoints": f"at {self.keypoints}" if self.keypoints else "",
            "scheme": self.artifact.scheme,
            "cut": "features" if {*self.artifact.outputs} == {*FEATURES} else "",
            "backend": self.backend,
            "threads": f"{self.environment.threads}t",
            "protocol": self.protocol,
            "settings": " ".join(filter(None, asked)),
        }
        return " ".join(filter(None, (known[part] for part in parts)))

    def timed(self, timing: Timing) -> Self:
        """Return the run with these times."""
        known = [each.name for each in fields(Timing) if each.name not in OWN]
        order = tuple(dict.fromkeys((*self.order, *timing.order)))
        changes = {name: getattr(timing, name) for name in known}
        return replace(self, order=order, extra={**self.extra, **timing.extra}, **changes)

    def of_split(self, prefix: str) -> list[PairScores]:
        """Return the pairs of sequences with names that begin with `prefix`."""
        return [pair for pair in self.pairs if pair.sequence.startswith(prefix)]

    def drop(self, reference: Run, metric: str) -> Drop | None:
        """Return the drop of this run from a reference on the same pairs; None if no pair has a value in both.

        Raises:
            BadInput: the reference has other pairs.
        """
        of, statistic = aggregate(self.protocol, metric)
        before, after = ({pair.name: pair.value(of) for pair in run.pairs} for run in (reference, self))
        if before.keys() != after.keys():
            raise BadInput(f"{self.label}: its pairs are not those of the reference; evaluate both on the same data")
        change = paired(list(before.values()), [after[name] for name in before], statistic)
        if change is None:
            return None
        sign = 1 if METRICS[metric].higher_is_better is False else -1
        draws = None if change.draws is None else sign * change.draws
        return Drop(
            change.first, change.second, change.n, sign * (change.second - change.first) + 0.0, draws, change.lost
        )
