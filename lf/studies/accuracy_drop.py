"""Accuracy drop of a file from its float parent, measured by the protocols of the benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.benchmarks import METRICS, PROTOCOLS
from lf.benchmarks.protocols.protocol import Protocol
from lf.benchmarks.run.evaluate import bench
from lf.benchmarks.run.predict import Memory
from lf.benchmarks.run.record import Run
from lf.core import Artifact, UsageError, pick
from lf.core.console import Progress
from lf.data import Pair, dataset_digest, open_dataset
from lf.data.kept import kept
from lf.extraction.variant import Variant

if TYPE_CHECKING:
    from lf.quantize.search.sensitivity import Drop

BACKEND = "ort-cpu"
USUAL = ("kp2d-fixed", "mma")  # default protocols; only those that the metrics need are used


class Judge:
    """Evaluates variants of one float file on pairs that stay the same; see `lf.quantize.search.sensitivity.Evaluate`.

    The features of the float file are kept on disk, those of a variant in memory until all protocols have scored it.
    Images stay in memory.
    """

    def __init__(
        self, parent: Artifact, pairs: Sequence[Pair], data: str, metrics: Mapping[str, Protocol], cache: Path
    ) -> None:
        """Store the files, data and metrics to compare; nothing runs yet.

        Args:
            parent: the float file.
            pairs: pairs to evaluate on.
            data: name of their dataset.
            metrics: row of METRICS -> the protocol that measures it, from `choose`.
            cache: folder of the features of the float file.
        """
        self._parent, self._pairs, self._data, self._metrics, self._cache = parent, kept(pairs), data, metrics, cache
        self._rules = {rule.name: rule for rule in metrics.values()}
        self._before: dict[str, Run] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of its figures, without the variant; JSON."""
        rules = {name: rule.digest for name, rule in self._rules.items()}
        return {"data": dataset_digest(self._pairs), "protocols": rules, "metrics": [*self._metrics]}

    def __call__(self, variant: Artifact, progress: Progress) -> dict[str, Drop]:
        """Evaluate a variant: metric -> drop from the float file."""
        from lf.quantize.search.sensitivity import Drop

        if not self._before:
            self._before = self._runs(self._parent, self._cache, lambda done, total, text: progress(0, total, text))
        after, drops = self._runs(variant, None, progress), {}
        for metric, rule in self._metrics.items():
            found = after[rule.name].drop(self._before[rule.name], metric)
            drops[metric] = Drop(None, None, None, None, 0)
            if found:
                low, high = found.interval or (None, None)
                drops[metric] = Drop(found.drop, low, high, found.first, found.n)
        return drops

    def _runs(self, artifact: Artifact, cache: Path | None, progress: Progress) -> dict[str, Run]:
        """Evaluate a file: protocol -> run."""
        runs: dict[str, Run] = {}
        variant = Variant(artifact, BACKEND)
        how: dict[str, Any] = {"extractor": variant.open(), "cache": cache}
        how["memory"] = Memory() if len(self._rules) > 1 and not cache else None
        for index, (name, rule) in enumerate(self._rules.items()):

            def told(done: int, total: int, text: str, index: int = index) -> None:
                progress(index * total + done, len(self._rules) * total, text)

            runs[name] = bench(variant, self._pairs, self._data, rule, progress=told, **how)
        return runs


def yielded(metrics: Iterable[str], protocols: str | None) -> dict[str, Protocol]:
    """Call `choose` with the metrics that the protocols have.

    Raises:
        UsageError: an unknown protocol, or protocols with none of the metrics.
    """
    metrics, rules = [*metrics], _rules(protocols)
    some = [metric for metric in metrics if any(_yields(rule, metric) for rule in rules)]
    return choose(some or metrics, protocols)


def choose(metrics: Iterable[str], protocols: str | None) -> dict[str, Protocol]:
    """Choose for each metric the first protocol that has it, of `protocols` (separated by commas) or of USUAL.

    Raises:
        UsageError: an unknown name, a metric without a better direction, or a metric that no protocol has.
    """
    judges = {name: row for name, row in METRICS.items() if row.higher_is_better is not None}
    rules = _rules(protocols)
    found = {}
    for metric in metrics:
        pick(judges, metric, "metric by which files are judged")
        fits = [rule for rule in rules if _yields(rule, metric)]
        if not fits:
            named = ",".join(rule.name for rule in rules)
            others = [name for name, rule in PROTOCOLS.items() if _yields(rule, metric)]
            raise UsageError(
                f"{metric} is no metric of protocol {named}, but of {', '.join(others)}; "
                f"type: `protocol={named},{others[0]}`"
            )
        found[metric] = fits[0]
    return found


def _rules(protocols: str | None) -> list[Protocol]:
    return [pick(PROTOCOLS, name, "protocol") for name in (protocols.split(",") if protocols else USUAL)]


def _yields(rule: Protocol, metric: str) -> bool:
    return metric in (*rule.metrics, *rule.aggregates)


def parse_budget(text: str) -> dict[str, float]:
    """Parse a budget, `correctness@1=0.01,repeatability=0.005`: metric -> largest drop.

    Raises:
        UsageError: the text is not such a list.
    """
    budget: dict[str, float] = {}
    for word in text.split(","):
        name, _, number = word.strip().partition("=")
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if not name or not 0 <= limit < math.inf or name in budget:
            raise UsageError(
                f"`max_drop={text}`: expected METRIC=NUMBER with commas, each metric once, no number below 0, "
                'for example `max_drop="correctness@1=0.01,repeatability=0.005"`'
            )
        budget[name] = limit
    return budget


def open_pairs(data: str, metrics: Mapping[str, Protocol], limit_sequences: int | None) -> list[Pair]:
    """Open the pairs that all protocols of `metrics` evaluate."""
    without = tuple(dict.fromkeys(name for rule in metrics.values() for name in rule.without))
    pairs = open_dataset(data, limit_sequences, exclude=without)
    for rule in metrics.values():
        rule.check(pairs, data)
    return pairs


def halves(pairs: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split the pairs into two halves without a common sequence; `i_` and `v_` sequences are shared evenly.

    Raises:
        UsageError: fewer than two sequences.
    """
    names = sorted({pair.sequence for pair in pairs})
    if len(names) < 2:
        raise UsageError(f"{len(names)} sequence cannot be split; a search needs one half to search and one to confirm")
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    dealt = sorted(shuffled, key=lambda name: name[:2])[::2]
    first = [pair for pair in pairs if pair.sequence in dealt]
    return first, [pair for pair in pairs if pair.sequence not in dealt]
