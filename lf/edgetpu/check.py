"""Predict which operators of a .tflite file the Edge TPU compiler maps, and why others stay on the CPU.

The compiler is closed source and no longer developed; `lf.edgetpu.rules` holds the known rules. Its region is predicted
as TFLite partitions graphs (tensorflow/lite/graph_info.cc): it collects all operators that can map and have their
inputs, then operators that cannot map, and so on. The compiler takes the first set that can map.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lf.core import BadInput
from lf.edgetpu import operators
from lf.edgetpu.graph import CUSTOM, Graph, Operator, Tensor, build
from lf.edgetpu.rules import (
    COMPILER,
    CPU,
    FITS,
    LARGE,
    MAPS,
    ON_CHIP,
    STATES,
    TOO_LARGE,
    Finding,
    doubt,
    general,
    refused,
)
from lf.formats import tflite
from lf.runtimes.litert import COMPILED

BROUGHT = ("TFLite_Detection_PostProcess", "NumericVerify", "Mfcc", "AudioSpectrogram")  # custom, and part of TFLite


@dataclass(frozen=True)
class Verdict:
    """Prediction for one operator; `rule`, `source` and `reason` of the worst finding, "" if it maps."""

    graph: int
    index: int
    name: str
    version: int
    state: str
    rule: str
    source: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The prediction for a file.

    Attributes:
        compiled: True for a compiled file; the report then describes it and is not a prediction.
        rejected: reason why the compiler cannot read the file; then every operator is `cpu`.
        operators: in order of execution.
        prefix: number of operators before the first that stays on the CPU.
        subgraphs: number of subgraphs of operators that can map; the compiler makes only the first.
        parameter_bytes: bytes of all constants of operators.
        parameters: `fits`, `tight` or `streams` from the host in every run.
        activation_bytes: bytes of the largest tensor that is not a constant.
        activation: `fine`, `uncertain` or `unlikely`.
        largest: name and shape of that tensor.
    """

    compiled: bool
    rejected: tuple[str, ...]
    operators: tuple[Verdict, ...]
    prefix: int
    subgraphs: int
    parameter_bytes: int
    parameters: str
    activation_bytes: int
    activation: str
    largest: tuple[str, tuple[int, ...]]
    sha256: str

    @property
    def counts(self) -> dict[str, int]:
        """Count the operators in each state."""
        found = Counter(each.state for each in self.operators)
        return {state: found[state] for state in STATES}

    @property
    def first(self) -> Verdict | None:
        """Return the first operator that itself stays on the CPU, or None; later operators may have to follow it."""
        return next((each for each in self.operators if each.state == CPU), None)

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Count operators by kind and state."""
        found: dict[str, dict[str, int]] = {}
        for each in self.operators:
            found.setdefault(each.name, dict.fromkeys(STATES, 0))[each.state] += 1
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {"target": "edgetpu", "compiler": COMPILER, "prediction": not self.compiled, "counts": self.counts} | (
            asdict(self)
        )

    def digest(self) -> dict[str, Any]:
        """Return a summary for a card."""
        kept = ("prefix", "subgraphs", "parameter_bytes", "parameters", "activation_bytes", "activation")
        return {"counts": self.counts, **{name: getattr(self, name) for name in kept}, "operators": self.by_kind()}


def examine(data: bytes, where: str) -> Report:
    """Predict which operators of a file the Edge TPU compiler maps.

    Args:
        data: a .tflite file, with or without a card.
        where: name of the file for errors.

    Raises:
        BadInput: not a TFLite model, damaged, or without an operator.
        Unavailable: the schema is not installed.
    """
    graph = build(tflite.read(data, where))
    if not graph.operators:
        raise BadInput(f"{where}: a TFLite model without an operator; there is nothing to map")
    compiled = any(each.custom == COMPILED for each in graph.operators)
    rejected = () if compiled else tuple(dict.fromkeys(filter(None, map(_unreadable, graph.operators))))
    own = [_as_compiled(each) if compiled else _own(each, graph) for each in graph.operators]
    sets = [] if rejected else _sets(graph, [finding is None or finding.state != CPU for finding in own])
    if rejected:
        file = refused("file", "S", f"the compiler cannot read the file: {rejected[0]}")
        findings: Sequence[Finding | None] = [
            finding if finding is not None and finding.state == CPU else file for finding in own
        ]
    else:
        findings = own if compiled else _in_one_region(graph, own, sets)
    verdicts = tuple(map(_verdict, graph.operators, findings))
    parameters, largest = _parameters(graph), _largest(graph)
    return Report(
        compiled=compiled,
        rejected=rejected,
        operators=verdicts,
        prefix=next((i for i, each in enumerate(verdicts) if each.state == CPU), len(verdicts)),
        subgraphs=len(sets),
        parameter_bytes=parameters,
        parameters="fits" if parameters <= FITS else "tight" if parameters <= ON_CHIP else "streams",
        activation_bytes=largest.bytes,
        activation="fine" if largest.bytes <= LARGE else "uncertain" if largest.bytes <= TOO_LARGE else "unlikely",
        largest=(largest.label, largest.shape),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _unreadable(operator: Operator) -> str | None:
    if operator.code == CUSTOM and operator.custom not in BROUGHT:
        return f"custom operator {operator.custom or '(without a name)'}"
    return operators.unreadable(operator)


def _as_compiled(operator: Operator) -> Finding | None:
    return None if operator.custom == COMPILED else refused("compiled", "S", "the compiler left it on the CPU")


def _own(operator: Operator, graph: Graph) -> Finding | None:
    """Return the first of the worst findings about an operator itself, or None."""
    found = [*(_custom(operator) if operator.code == CUSTOM else operators.particular(operator)), *general(operator)]
    if graph.graphs > 1:
        found.append(doubt("graphs", "K", f"the file has {graph.graphs} graphs"))
    return max(found, key=lambda each: STATES.index(each.state), default=None)  # the first of the worst


def _custom(operator: Operator) -> Iterator[Finding]:
    yield refused("custom", "D", f"custom operator {operator.custom or '(without a name)'}")


def _sets(graph: Graph, able: Sequence[bool]) -> list[set[int]]:
    """Return the sets of operators that would be delegated together, in order of execution."""
    made = {id(tensor) for operator in graph.operators for tensor in operator.outputs}
    waits = [{id(t) for t in each.inputs if t is not None and id(t) in made} for each in graph.operators]
    there: set[int] = set()
    left, sets = list(range(len(graph.operators))), []
    while left:
        ready = [i for i in left if waits[i] <= there]
        if not ready:  # a cycle, which no interpreter runs
            break
        kind, taken = able[ready[0]], set[int]()
        for i in left:  # in order of execution, so one round gathers all
            if able[i] == kind and waits[i] <= there:
                taken.add(i)
                there |= {id(tensor) for tensor in graph.operators[i].outputs}
        left = [i for i in left if i not in taken]
        if kind:
            sets.append(taken)
    return sets


def _in_one_region(graph: Graph, own: Sequence[Finding | None], sets: Sequence[set[int]]) -> list[Finding | None]:
    region = sets[0] if sets else set()
    findings: list[Finding | None] = []
    stopped = ""
    for i, (operator, finding) in enumerate(zip(graph.operators, own, strict=True)):
        if finding is not None and finding.state == CPU:
            if not _at_the_door(operator):
                stopped = stopped or f"{operator.name} at {operator.index}"
            findings.append(finding)
        elif i not in region:
            behind = f"behind {stopped}" if stopped else "its inputs are not there in time"
            findings.append(refused("region", "D", f"{behind}: more than one subgraph is not supported"))
        elif stopped and finding is None:
            text = f"after {stopped}: the documentation leaves it on the CPU, TFLite's partitioning need not"
            findings.append(doubt("region", "D", text))
        else:
            findings.append(finding)
    return findings


def _at_the_door(operator: Operator) -> bool:
    """Return whether an operator converts the float input; a mapped region may follow it."""
    return operator.name == "QUANTIZE" and all(tensor.quantized for tensor in operator.outputs)


def _verdict(operator: Operator, finding: Finding | None) -> Verdict:
    what = operator.graph, operator.index, operator.custom or operator.name, operator.version
    if finding is None:
        return Verdict(*what, MAPS, *(("compiled", "S", "") if operator.custom == COMPILED else ("", "", "")))
    return Verdict(*what, finding.state, finding.rule, finding.source, finding.reason)


def _parameters(graph: Graph) -> int:
    found = {tensor.buffer: tensor.bytes for operator in graph.operators for tensor in operator.constants}
    return sum(found.values())


def _largest(graph: Graph) -> Tensor:
    computed = [tensor for operator in graph.operators for tensor in operator.computed]
    none = Tensor("none", (0,), "INT8", (), (), 0, None, 0, False, False)
    return max(computed, key=lambda tensor: tensor.bytes, default=none)
