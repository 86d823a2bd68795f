"""Evaluate files on the machines of a pool, and resume: finished runs are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.run import results
from lf.benchmarks.run.evaluate import Progress
from lf.benchmarks.run.pool import BY, POOLS, Work, located, made_on, needs_of
from lf.benchmarks.run.record import Run
from lf.benchmarks.run.suite import RESULTS
from lf.core import BadInput, ledger, pick
from lf.core.fingerprint import versions
from lf.data import dataset_digest, open_dataset
from lf.extraction.variant import Variant

KEPT = "runs"  # folder below `out`


def evaluate_in_pool(
    variants: Sequence[Variant],
    data: str,
    protocol: str,
    pool: str,
    needs: Mapping[str, float],
    *,
    limit_sequences: int | None = None,
    threads: int = 1,
    workers: int = 1,
    repeats: int = 0,
    out: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> list[Run]:
    """Evaluate variants on the same pairs, each on a machine with the resources it needs; then time them.

    Variants with the same needs are timed in turns on one machine, while this run computes nothing else.

    Args:
        variants: variants to evaluate.
        data: see `lf.data.open_dataset`; the same files at the same path on all machines.
        protocol: row of PROTOCOLS.
        pool: row of POOLS.
        needs: resources that the machines must have, in addition to those of the backends.
        limit_sequences: see `open_dataset`.
        threads: number of threads of each engine.
        workers: number of images in parallel.
        repeats: number of timed extractions of each; 0 for none.
        out: folder for results, and to resume from.
        progress: (done, total, text).

    Raises:
        Unavailable: no machine has the resources of a variant, or machines do not answer.
        LfError: an error of a machine.
    """
    spread, rule = pick(POOLS, pool, "pool"), pick(PROTOCOLS, protocol, "protocol")
    pairs = open_dataset(data, limit_sequences, exclude=rule.without)
    rule.check(pairs, data)
    common = Work((), located(data), dataset_digest(pairs), protocol, threads, workers, limit_sequences)
    works = [replace(common, variants=(variant,), needs=needs_of(variant, needs)) for variant in variants]
    found: dict[int, Run] = {}
    for index, work in enumerate(works):
        if out and (run := _kept(_place(out, work))):
            found[index] = run
    todo = [index for index in range(len(works)) if index not in found]
    for answer in spread([works[index] for index in todo]) if todo else ():
        index = todo[answer.index]
        if answer.error:
            raise answer.error
        assert answer.run
        found[index] = replace(answer.run, dataset=data)
        if out:
            results.save(_place(out, works[index]), [found[index]])
        progress(len(found), len(works), f"{works[index].name} on {answer.machine}")
    runs = [found[index] for index in range(len(works))]
    if repeats:
        runs = _timed(runs, works, repeats, pool)
    if out:
        results.save(out / RESULTS, runs)
    return runs


def _place(out: Path, work: Work) -> Path:
    """Return the file of the run of a work, named by the hash of everything it depends on."""
    variant = work.variants[0]
    settings = {name: value for name, value in vars(variant).items() if name != "artifact"}
    how = {"data": work.digest, "protocol": PROTOCOLS[work.protocol].digest, "threads": work.threads}
    return out / KEPT / f"{ledger.key({**settings, **how, 'file': variant.artifact.sha256, **versions(BY)})}.json"


def _kept(path: Path) -> Run | None:
    try:
        (run,) = results.load(path)
    except (BadInput, ValueError):
        return None  # missing or damaged: compute again
    return run


def _timed(runs: Sequence[Run], works: Sequence[Work], repeats: int, pool: str) -> list[Run]:
    """Time the files of the runs; groups with different needs are timed one after the other."""
    groups: dict[tuple[tuple[str, float], ...], list[int]] = {}
    for index, work in enumerate(works):
        groups.setdefault(tuple(sorted(work.needs.items())), []).append(index)
    timed = dict(enumerate(runs))
    for some in groups.values():
        variants = tuple(works[index].variants[0] for index in some)
        for answer in POOLS[pool]([replace(works[some[0]], variants=variants, repeats=repeats)]):
            if answer.error:
                raise answer.error
            for index, timing in zip(some, answer.timings, strict=True):
                timed[index] = made_on(runs[index].timed(timing), timed_on=answer.machine)
    return [timed[index] for index in range(len(runs))]
