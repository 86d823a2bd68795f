"""POOLS: run and time files on the machines of a cluster that have the needed resources.

Model files are sent to each machine once, by sha256. Data are not sent: every machine opens them by name, and their
digests are compared.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lf.benchmarks import PROTOCOLS
from lf.benchmarks.run.evaluate import bench
from lf.benchmarks.run.record import Environment, Run
from lf.benchmarks.timing.record import Timing
from lf.core import Artifact, BadInput, LfError, Unavailable, UsageError, files, ledger
from lf.core.fingerprint import versions
from lf.core.registry import load_plugins
from lf.data import Pair, dataset_digest, open_dataset
from lf.extraction.cluster import connected, heard, told
from lf.extraction.variant import Variant
from lf.runtimes import BACKENDS

RETRIES = 5  # largest number of machines lost during the same work
PATIENCE = 60.0  # s to wait for a needed machine to come back
EVERY = 1.0  # s between checks of the machines
BY = "lf.benchmarks.run.evaluate"  # the code of this module must be the same on all machines


@dataclass(frozen=True)
class Work:
    """Work for a machine: evaluate one variant, or time several in turns.

    Attributes:
        variants: one variant to evaluate, or several to time.
        data: name of the dataset, with an absolute path.
        digest: digest of its pairs.
        protocol: row of PROTOCOLS.
        threads: number of threads of each engine.
        workers: number of images in parallel.
        limit_sequences: see `lf.data.open_dataset`.
        needs: custom resources of Ray that the machine must have: name -> amount.
        repeats: number of turns to time; 0 evaluates.
        reference: index of the reference variant of ratios.
    """

    variants: tuple[Variant, ...]
    data: str
    digest: str
    protocol: str
    threads: int = 1
    workers: int = 1
    limit_sequences: int | None = None
    needs: Mapping[str, float] = field(default_factory=dict)
    repeats: int = 0
    reference: int = 0

    @property
    def name(self) -> str:
        """Name for progress and errors."""
        first = self.variants[0]
        return (
            f"{first.artifact.path.name} {first.backend}" if not self.repeats else f"{len(self.variants)} files timed"
        )


@dataclass(frozen=True)
class Answer:
    """Answer of a machine: index of the work, name of the machine, and a run, times, or an error."""

    index: int
    machine: str
    run: Run | None = None
    timings: Sequence[Timing] = ()
    error: LfError | None = None


Pool = Callable[[Sequence[Work]], Iterator[Answer]]


def needs_of(variant: Variant, more: Mapping[str, float]) -> dict[str, float]:
    """Return the resources that a variant needs: those of its backend, and `more`."""
    own = BACKENDS[variant.backend].resource
    return {**({own: 1.0} if own else {}), **more}


def located(spec: str) -> str:
    """Make the path in the name of a dataset absolute, because workers have another current folder."""
    name, colon, where = spec.partition(":")
    path = files.expand(where if colon else spec)
    if not path.exists():
        return spec
    return f"{name}:{path.absolute()}" if colon else str(path.absolute())


def compute(work: Work, content: Mapping[str, bytes], expected: Mapping[str, str]) -> dict[str, Any]:
    """Compute a work on a machine of the pool: {"machine", and "run", "timings" or "error"}, all JSON.

    Args:
        work: the work to compute.
        content: sha256 -> bytes of the files.
        expected: versions on the client.
    """
    machine = platform.node()
    load_plugins()
    try:
        if found := ledger.differences(versions(BY), expected):
            raise Unavailable(f"has another version of lf ({found[0]}); install the same versions there")
        variants = [replace(each, artifact=_received(each.artifact, content)) for each in work.variants]
        rule = PROTOCOLS[work.protocol]
        pairs = open_dataset(work.data, work.limit_sequences, exclude=rule.without)
        if dataset_digest(pairs) != work.digest:
            raise BadInput(f"{work.data} holds other data on that machine; copy the same files to the same path")
        if work.repeats:
            return {"machine": machine, "timings": [each.to_dict() for each in _timed(work, variants, pairs)]}
        run = bench(variants[0], pairs, work.data, rule, threads=work.threads, workers=work.workers)
    except LfError as error:
        kind, text = told(error)
        return {"machine": machine, "error": [kind, f"machine {machine}: {text}"]}
    return {"machine": machine, "run": run.to_dict()}


def _timed(work: Work, variants: Sequence[Variant], pairs: Sequence[Pair]) -> list[Timing]:
    from lf.benchmarks.run.suite import timings

    rule = PROTOCOLS[work.protocol]
    return timings(variants, pairs[0], rule, work.threads, work.repeats, lambda *_: None, work.reference)


def _received(artifact: Artifact, content: Mapping[str, bytes]) -> Artifact:
    """Return the artifact on this machine; its file is written unless one with this sha256 exists."""
    sha256 = hashlib.sha256(content[_key(artifact)]).hexdigest()
    path = Path(tempfile.gettempdir(), f"lf-files-{os.getuid()}", sha256, artifact.path.name)
    if not path.is_file() or files.sha256(path, "a model file") != sha256:
        files.write_bytes(path, content[_key(artifact)])
    return Artifact(path, artifact.card)


def _key(artifact: Artifact) -> str:
    return artifact.sha256


def on_ray(works: Sequence[Work]) -> Iterator[Answer]:
    """Yield the answers as they arrive; the work of a lost machine is given to another.

    Raises:
        Unavailable: no machine has the resources of a work, or none has them any more.
        LfError: see `lf.extraction.cluster.connected`.
    """
    with connected() as ray:
        for work in works:
            _refuse_unmet(ray, work)
        content = {_key(v.artifact): v.artifact.path for work in works for v in work.variants}
        stored = {key: ray.put(path.read_bytes()) for key, path in content.items()}
        task, expected = ray.remote(_with_files), versions(BY)
        waiting, lacking = {}, time.monotonic()
        for index, work in enumerate(works):
            keys = [_key(variant.artifact) for variant in work.variants]
            how = {"num_cpus": work.threads * work.workers, "resources": dict(work.needs), "max_retries": RETRIES}
            waiting[task.options(**how).remote(work, expected, keys, *(stored[key] for key in keys))] = index
        while waiting:
            done, _ = ray.wait([*waiting], num_returns=1, timeout=EVERY)
            for reference in done:
                yield _answer(waiting.pop(reference), ray.get(reference))
            if done or all(_met(ray, works[index]) for index in waiting.values()):
                lacking = time.monotonic()
            elif time.monotonic() - lacking > PATIENCE:
                _refuse_unmet(ray, next(works[i] for i in waiting.values() if not _met(ray, works[i])))


def _with_files(work: Work, expected: Mapping[str, str], keys: Sequence[str], *content: bytes) -> dict[str, Any]:
    """Run `compute` on a Ray worker that has received the files; the machine's name includes its Ray number."""
    import ray

    answer = compute(work, dict(zip(keys, content, strict=True)), expected)
    return {**answer, "machine": f"{answer['machine']} {ray.get_runtime_context().get_node_id()[:8]}"}


def _answer(index: int, said: dict[str, Any]) -> Answer:
    machine = said["machine"]
    if "error" in said:
        return Answer(index, machine, error=heard(said["error"]))
    if "timings" in said:
        return Answer(index, machine, timings=[Timing.from_dict(each, machine) for each in said["timings"]])
    return Answer(index, machine, made_on(Run.from_dict(said["run"], machine), machine=machine))


def made_on(run: Run, **where: str) -> Run:
    """Return the run with fields of its environment replaced: `machine`, `timed_on`."""
    said = {**run.environment.to_dict(), **where}
    return replace(run, environment=Environment.from_dict(said, "the pool"))


def _met(ray: Any, work: Work) -> bool:
    """Return whether a connected machine has the resources of a work, free or busy."""
    needs = {"CPU": float(work.threads * work.workers), **work.needs}
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(has.get(name, 0.0) >= amount for name, amount in needs.items()) for has in alive)


def _refuse_unmet(ray: Any, work: Work) -> None:
    """Raise Unavailable if no machine has the resources of a work."""
    if _met(ray, work):
        return
    wanted = ", ".join(f"{name} {amount:g}" for name, amount in work.needs.items())
    cores = work.threads * work.workers
    flag = "{" + ", ".join(f'"{name}": {amount:g}' for name, amount in work.needs.items()) + "}"
    raise Unavailable(
        f"{work.name}: no machine of the pool has {f'{wanted} and ' if wanted else ''}{cores} cores; "
        f"start Ray on one with the resources {flag}, see docs/pools.md"
    )


def parse_needs(words: Sequence[str]) -> dict[str, float]:
    """Parse resources: `rpi4` -> {"rpi4": 1.0}, `rpi4=2` -> {"rpi4": 2.0}.

    Raises:
        UsageError: a word is not a resource.
    """
    found = {}
    for word in words:
        name, _, amount = word.partition("=")
        if not name or not (amount or "1").replace(".", "", 1).isdecimal() or not float(amount or 1):
            raise UsageError(f"`needs={word}`: expected NAME or NAME=AMOUNT, for example rpi4")
        found[name] = float(amount or 1)
    return found


POOLS: dict[str, Pool] = {"ray": on_ray}
