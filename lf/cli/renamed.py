"""Old names of commands and options, and their replacements. See docs/reference/migration.md."""

from __future__ import annotations

import typer

OPTIONS = {  # (command, option) -> new form
    ("bench", "--latency"): "lf time FILE...",
    ("bench", "--pictures"): "lf bench FILE... --draw",
    ("bench", "--images"): "lf time FILE... --photo PATH",
    ("bench", "--reference"): "lf time FILE... --reference NAME",
    ("bench", "--github-benchmark"): "lf time FILE... --github-benchmark FILE",
    ("demo", "--camera"): "lf live N",
    ("demo", "--video"): "lf live FILE",
    ("demo", "--images"): "lf live DIR",
    ("demo", "--model"): "lf live SOURCE --model FILE",
    ("demo", "--backend"): "lf live SOURCE --backend NAME",
    ("demo", "--top-k"): "lf live SOURCE --top-k N",
    ("demo", "--frames"): "lf live SOURCE --frames N",
    ("quantize", "--max-drop"): 'lf search FILE --max-drop "METRIC=MOST"',
    ("quantize", "--data"): "lf search FILE --data ROOT",
    ("quantize", "--protocol"): "lf search FILE --protocol NAME",
    ("quantize", "--limit-sequences"): "lf search FILE --limit-sequences N",
    ("quantize", "--max-evaluations"): "lf search FILE --max-evaluations N",
    ("quantize", "--search"): "lf search FILE --out DIR",
    ("export", "--images"): "lf export FILE --parity-images DIR",
    ("train", "--data"): "lf train RECIPE --photos DIR[:N]",
    ("label", "--data"): "lf label CHECKPOINT --photos DIR",
    ("label", "--size"): "lf label CHECKPOINT --area HxW",
    ("data show", "--data"): "lf data show RECIPE --photos DIR[:N]",
}


def now(error: typer.TyperException) -> str | None:
    """Return the new name of a renamed option; None for other errors."""
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if type(error).__name__ != "NoSuchOption" or context is None:
        return None
    command = context.command_path.partition(" ")[2]
    typed = OPTIONS.get((command, option or ""))
    return None if typed is None else f"{option} of lf {command} has moved; type: {typed} (docs/reference/migration.md)"
