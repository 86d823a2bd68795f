"""Evaluate networks on pairs of images with known homographies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lf.api.network import Network, load
from lf.benchmarks.run import results
from lf.benchmarks.run.record import Drop, Run
from lf.benchmarks.run.suite import evaluate_variants
from lf.core import Artifact, Unavailable, UsageError
from lf.core.console import Progress
from lf.core.packages import pip
from lf.extraction.auto import AUTO
from lf.extraction.store import backend_for
from lf.extraction.variant import Variant


def evaluate(
    networks: Sequence[str | Path | Artifact | Network] | str | Path | Artifact | Network,
    data: str = "procedural",
    protocol: str = "kp2d-fixed",
    *,
    backend: str | None = None,
    limit_sequences: int | None = None,
    keypoints: str | None = None,
    size: tuple[int, int] | None = None,
    threads: int = 1,
    workers: int = 1,
    out: str | Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Runs:
    """Evaluate networks on the same pairs under one protocol.

    Args:
        networks: one or several networks, in any form that `lf.load` takes; the first is the reference of `Runs.drops`.
        data: a folder in HPatches layout, `warps:DIR` of photos, or `procedural[:N]`; for a protocol that needs camera
            poses `posed:DIR` or `scenes[:N]`.
        protocol: evaluation protocol, a name that `lf bench --help` lists.
        backend: the engine of all networks; None takes that of each network, and for `auto` the first installed one
            that runs the file, so that results of two machines have the same engine.
        limit_sequences: number of first sequences to use.
        keypoints: baseline that detects the points to describe, such as `sift`; None for the network's own.
        size: (H, W) pixels, another input size of the network; keypoints are mapped back.
        threads: threads of each engine.
        workers: number of images in parallel; results do not change.
        out: folder for results.json and the features of every image; the same call resumes.
        progress: called with (done, total, text) for every pair.

    Returns:
        One run for each network, in order.

    Raises:
        UsageError: an unknown protocol, dataset or backend, or no network.
        BadInput: the dataset is invalid, or one of its images calibrated a network.
        Unavailable: an engine is not installed.

    Example:
        >>> import lf
        >>> runs = lf.evaluate(["wren", "sift"], data="procedural:2")
        >>> [run.artifact.model for run in runs]
        ['wren', 'sift']
    """
    several = [networks] if isinstance(networks, str | Path | Artifact | Network) else list(networks)
    if not several:
        raise UsageError("no network to evaluate; give at least one file or name, for example ['wren']")
    opened = [load(network, backend or AUTO) for network in several]
    variants = [Variant(network.artifact, _fixed(network), keypoints, size) for network in opened]
    return Runs(
        evaluate_variants(
            variants,
            data,
            protocol,
            limit_sequences=limit_sequences,
            threads=threads,
            workers=workers,
            out=None if out is None else Path(out),
            progress=progress,
        )
    )


def _fixed(network: Network) -> str:
    """Return the engine for evaluating a network: for `auto` the first installed one, not the fastest here."""
    return backend_for(network.artifact) if network.backend == AUTO else network.backend


class Runs(Sequence[Run]):
    """Runs of the same pairs; the first is the reference."""

    def __init__(self, runs: Sequence[Run]) -> None:
        """Use `lf.evaluate` or `Runs.read`."""
        self._runs = list(runs)

    @classmethod
    def read(cls, path: str | Path) -> Runs:
        """Read a results file.

        Raises:
            BadInput: it is not a results file.
        """
        return cls(results.load(Path(path)))

    def __len__(self) -> int:
        """Number of runs."""
        return len(self._runs)

    def __getitem__(self, index: Any) -> Any:
        """Return a run, or a slice of runs."""
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __iter__(self) -> Iterator[Run]:
        """Iterate over the runs, in order."""
        return iter(self._runs)

    def drops(self, metric: str) -> list[Drop | None]:
        """Return the drop of each later run from the first, over the same pairs.

        Args:
            metric: for example `repeatability`.

        Returns:
            One record for each run after the first: `drop`, `interval` (95 %, paired bootstrap over pairs; None below
            10 pairs), `n` pairs. None if no pair has a value in both runs.

        Raises:
            UsageError: an unknown metric.
            BadInput: a run has other pairs than the first.
        """
        from lf.benchmarks import METRICS
        from lf.core import pick

        pick(METRICS, metric, "metric")
        return [run.drop(self._runs[0], metric) for run in self._runs[1:]]

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with a row for each run and pair.

        Raises:
            Unavailable: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise Unavailable(f"a data frame needs pandas; type: {pip('dataframe')}") from error
        rows = [
            {
                "model": run.artifact.model,
                "scheme": run.artifact.scheme,
                "backend": run.backend,
                "protocol": run.protocol,
                **pair.to_dict(),
            }
            for run in self._runs
            for pair in run.pairs
        ]
        return pandas.DataFrame(rows)

    def save(self, path: str | Path) -> Path:
        """Write a results file, as `lf bench --out` does.

        Returns:
            The path.
        """
        return results.save(Path(path), self._runs)
