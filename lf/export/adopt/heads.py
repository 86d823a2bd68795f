"""Match the outputs of a graph with the heads of a network, and cut the graph at raw heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lf.core import FEATURES, Array, BadInput, GateFailed, UsageError
from lf.core.registry import hint
from lf.export.adopt import graph
from lf.export.adopt.forms import Form, forms
from lf.formats import onnx_model
from lf.formats.onnx_graph import Graph
from lf.models import MODELS, Model

if TYPE_CHECKING:
    from onnx import ModelProto

CLOSE = 1e-4  # largest error of a form made from a tensor of the graph, as a share of its largest value
INVERTED = 1e-3  # the same for inverted forms, as a logarithm loses digits
REACH = 60  # largest number of nodes to search before an output
PAGE = "docs/how-to/own-network.md"


@dataclass(frozen=True)
class Found:
    """Source of a head.

    Attributes:
        output: output of the foreign graph.
        tensor: tensor at which the graph is cut.
        layout: layout of the tensor, see `planes`.
        form: form of the tensor.
        seen: form of the output.
        half: True if the tensor is float16.
    """

    output: str
    tensor: str
    layout: str
    form: Form
    seen: Form
    half: bool

    def said(self) -> dict[str, str]:
        """Return the description for the card."""
        if self.tensor != self.output:
            done = f"{self.seen.name}, cut off the graph"
        else:
            done = self.form.name if self.form.name in ("raw", "of unit length") else f"{self.form.name}, inverted"
        return {"output": self.output, "layout": self.layout, "form": done}


def planes(value: Array, shape: tuple[int, int], size: tuple[int, int]) -> tuple[str, Array] | None:
    """Return layout and (c, h, w) form of an array that is a map of `shape` (channels, stride) of an image (H, W)."""
    channels, stride = shape
    rows, columns = size[0] // stride, size[1] // stride
    layouts = {
        "NCHW": ((1, channels, rows, columns), None),
        "NHWC": ((1, rows, columns, channels), (0, 3, 1, 2)),
        "CHW": ((channels, rows, columns), None),
    }
    if channels == 1:
        layouts |= {"NHW": ((1, rows, columns), None), "HW": ((rows, columns), None)}
    for name, (sides, order) in layouts.items():
        if value.shape == sides and value.dtype.kind == "f" and size[0] % stride == size[1] % stride == 0:
            turned = value.transpose(order) if order else value
            return name, np.ascontiguousarray(turned.reshape(channels, rows, columns), np.float32)
    return None


def assign(
    values: Mapping[str, Array],
    model: Model,
    given: Mapping[str, str],
    size: tuple[int, int],
    path: Path,
    kinds: Mapping[str, list[Form]],
) -> dict[str, tuple[str, Form]]:
    """Assign an output and its form to each head, by shape.

    Raises:
        UsageError: shapes do not decide, or `given` names a missing output or head.
        BadInput: no output fits a head.
    """
    check_names(given, values, kinds, path)
    found: dict[str, tuple[str, Form]] = {}
    chosen = {head: output for output, head in given.items()}
    for head, known in kinds.items():
        offered = [chosen[head]] if head in chosen else [name for name in values if name not in given]
        fits = [(name, form) for form in known for name in offered if planes(values[name], form.shape, size)]
        if not fits:
            raise BadInput(_misfit(head, values, model, size, path, chosen))
        best = [each for each in fits if each[1].shape == fits[0][1].shape]
        names = dict.fromkeys(name for name, _ in best)
        if len(names) > 1:
            raise UsageError(ambiguous(path, [*names], _rivals(kinds, head, chosen)))
        found[head] = best[0]
    taken: dict[str, str] = {}
    for head, (name, _) in found.items():
        if name in taken:
            raise UsageError(ambiguous(path, [name], [taken[name], head]))
        taken[name] = head
    return found


def ambiguous(path: Path, outputs: list[str], heads: list[str]) -> str:
    """Return the error if several outputs fit a head, or an output fits several heads."""
    pairs = ",".join(f"{name}={head}" for name, head in zip(outputs, heads, strict=False))
    return (
        f"{path}: {' and '.join(outputs)} fit{'s' * (len(outputs) == 1)} {' and '.join(heads)} by shape, which does "
        f"not say which is which; type for example `outputs={pairs}`"
    )


def _rivals(kinds: Mapping[str, list[Form]], head: str, chosen: Mapping[str, str]) -> list[str]:
    """Return the other heads with the shape of `head`."""
    shape = kinds[head][0].shape
    return [name for name, known in kinds.items() if known[0].shape == shape and name not in chosen]


def check_names(given: Mapping[str, str], values: Mapping[str, Array], heads: Mapping[str, Any], path: Path) -> None:
    """Raise UsageError if `outputs=` names a missing output or head."""
    for output, head in given.items():
        if output not in values:
            near = hint(output, values)
            raise UsageError(f"{path}: `outputs={output}={head}`: {near}its outputs are {', '.join(values)}")
        if head not in heads:
            near = hint(head, heads)
            raise UsageError(f"{path}: `outputs={output}={head}`: {near}the heads are {', '.join(heads)}")
    if len({*given.values()}) < len(given):
        raise UsageError(f"{path}: `outputs` names a head twice; expected one output for each")


def kinds_of(model: Model, values: str = "logits") -> dict[str, list[Form]]:
    """Return the forms of every head of a row."""
    return {head: forms(head, shape, model.descriptor, values) for head, shape in model.heads.items()}


def _misfit(
    head: str,
    values: Mapping[str, Array],
    model: Model,
    size: tuple[int, int],
    path: Path,
    chosen: Mapping[str, str],
) -> str:
    channels, stride = model.heads[head]
    shown = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in values.items())
    which = f"{chosen[head]} does not fit" if head in chosen else "no output fits"
    others = [
        name
        for name, row in MODELS.items()
        if row.module
        and all(
            any(planes(v, f.shape, size) for v in values.values() for f in known) for known in kinds_of(row).values()
        )
    ]
    if head in chosen:
        others = []
    advice = f"try `family={others[0]}`, whose heads fit" if others else f"describe the network in a TOML card: {PAGE}"
    return (
        f"{path}: {which} the head {head}, {channels} channel{'s' * (channels > 1)} at 1/{stride}; for an image of "
        f"{size[0]}x{size[1]} it gives {shown}; {advice}"
    )


def tails(model: ModelProto, output: str) -> Iterator[str]:
    """Yield the tensors before an output, the nearest first, back to the nearest convolutions."""
    makers = {name: node for node in model.graph.node for name in node.output}
    waiting, seen = [output], {output}
    for _ in range(REACH):
        if not waiting:
            return
        name = waiting.pop(0)
        yield name
        node = makers.get(name)
        if node is None or onnx_model.CONVOLUTION in node.op_type:
            continue
        for source in node.input:
            if source in makers and source not in seen:
                seen.add(source)
                waiting.append(source)


def locate(
    model: ModelProto,
    chosen: Mapping[str, tuple[str, Form]],
    kinds: Mapping[str, list[Form]],
    image: Array,
    path: Path,
) -> dict[str, Found]:
    """Find the raw tensor of every head, or the form of its output.

    A tensor before the output is the raw head if a known form of it has the output's values.
    """
    behind = {name: [*tails(model, name)] for name, _ in chosen.values()}
    wanted = sorted({tensor for names in behind.values() for tensor in names})
    values = graph.run(graph.session(model, wanted), image, path)
    size = image.shape[2], image.shape[3]
    return {
        head: _located(output, fit, kinds[head], {name: values[name] for name in behind[output]}, size)
        for head, (output, fit) in chosen.items()
    }


def _located(output: str, fit: Form, known: list[Form], values: Mapping[str, Array], size: tuple[int, int]) -> Found:
    raw = known[0]
    laid = planes(values[output], fit.shape, size)
    assert laid is not None  # checked by `assign`
    layout, seen = laid
    applied = [form for form in known[1:] if form.shape == fit.shape]
    for form in applied:
        for name, value in values.items():
            there = planes(value, raw.shape, size) if name != output else None
            if there and _close(form.apply(there[1]), seen) and not _close(there[1], seen):
                return Found(output, name, there[0], raw, form, value.dtype == np.float16)
    form = next((form for form in applied if form.shows(seen)), fit)
    return Found(output, output, layout, form, form, values[output].dtype == np.float16)


def _close(a: Array, b: Array, within: float = CLOSE) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max() <= within * max(float(np.abs(b).max()), 1e-30))


def cut(model: ModelProto, found: Mapping[str, Found], row: Model, size: tuple[int, int] | None) -> None:
    """End the graph at the raw heads, with the names and the order of the row, in place."""
    from onnx import TensorProto, helper

    del model.graph.output[:]
    marked = {place.tensor: f"{graph.PREFIX}{head}" for head, place in found.items()}
    onnx_model.retitle(model, marked)
    onnx_model.rename(model, lambda name: name in row.heads or name in FEATURES)
    g = Graph(f"{graph.PREFIX}out.")
    for head, place in found.items():
        start = tensor = marked[place.tensor]
        if place.half:
            tensor = g("Cast", tensor, to=TensorProto.FLOAT)
        if place.layout == "NHWC":
            tensor = g("Transpose", tensor, perm=[0, 3, 1, 2])
        elif place.layout != "NCHW":
            tensor = g("Unsqueeze", tensor, {"CHW": [0], "NHW": [1], "HW": [0, 1]}[place.layout])
        tensor = place.form.undo(g, tensor)
        if tensor == start:
            onnx_model.retitle(model, {start: head})
        else:
            g.rename(tensor, head)
        channels, stride = row.heads[head]
        sides = [side // stride for side in size] if size else [None, None]
        model.graph.output.append(helper.make_tensor_value_info(head, TensorProto.FLOAT, [1, channels, *sides]))
    graph.append(model, g)
    graph.prune(model)


def compare(
    raw: Mapping[str, Array],
    values: Mapping[str, Array],
    found: Mapping[str, Found],
    size: tuple[int, int],
    path: Path,
) -> None:
    """Raise GateFailed unless the raw heads, converted to the forms of the foreign outputs, have their values."""
    for head, place in found.items():
        laid = planes(values[place.output], place.seen.shape, size)
        again = place.seen.apply(np.ascontiguousarray(raw[head][0], np.float32))
        if laid is None or not _close(again, laid[1], INVERTED):
            raise GateFailed(
                f"{path}: {head}, made raw from {place.output} ({place.seen.name}), does not give its values again; "
                f"export the network without that step; nothing was written"
            )
