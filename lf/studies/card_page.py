"""Print the card of a model file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lf.benchmarks.report.tables import markdown
from lf.core import Artifact

HIDDEN = ("files", "ranges", "command")  # long lists; `lf inspect --json` has them


def page(artifact: Artifact) -> str:
    """Format the network, the inputs and outputs of the file, and a section for each step."""
    card = artifact.card
    channels, *size = card.input
    free = "x".join(map(str, size)) if all(size) else "any size"
    facts = {
        "file": str(artifact.path),
        "bytes": f"{artifact.bytes:,}",
        "sha256": artifact.sha256,
        "model": card.model,
        "scheme": card.scheme,
        "input": f"{channels} channel{'s' if channels > 1 else ''}, {free}",
        **({"refine": card.refine} if card.refine else {}),
        **({"classes": f"{len(card.classes)}: {', '.join(name for name, _ in card.classes)}"} if card.classes else {}),
        **{f"weights {name}": value for name, value in card.weights.items()},
    }
    outputs = [
        [name, str(channels), str(stride) if stride else "-"] for name, (channels, stride) in card.outputs.items()
    ]
    parts = [
        "\n".join(f"{name:16} {value}" for name, value in facts.items()),
        markdown(["output", "channels", "stride px"], outputs),
        *(_step(index, step.to_dict()) for index, step in enumerate(card.made, 1)),
    ]
    return "\n\n".join(parts)


def _step(index: int, step: Mapping[str, Any]) -> str:
    rows = [[name, value] for name, value in _flat(step) if name not in HIDDEN]
    return f"step {index}: {step['command']}\n" + "\n".join(f"  {name:28} {value}" for name, value in rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, value), such as `parity.max_difference`; long lists are replaced by their length."""
    for name, value in values.items():
        if name in HIDDEN and prefix:
            yield f"{prefix}{name}", f"{len(value)} entries" if hasattr(value, "__len__") else str(value)
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            short = ", ".join(map(str, value))
            yield f"{prefix}{name}", short if len(short) <= 80 else f"{len(value)} entries"
        else:
            yield f"{prefix}{name}", str(value)
