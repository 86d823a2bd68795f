"""Check engines, providers, processor features and optional packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
from typing import Any

from lf.core import Unavailable
from lf.core.machine import INT8, NAMES, cpu
from lf.core.packages import DISTRIBUTION, pip
from lf.extraction import auto
from lf.quota import affinity, cores, quota
from lf.runtimes import BACKENDS, Backend

Row = dict[str, Any]
SHOWN = 5  # number of choices of `auto` to show
CONTRIBUTORS = ("dev", "docs")  # extras for contributors


def examine() -> list[Row]:
    """Return a row {"name", "ok", "detail"} for each backend and extra, the processor, its cores, clashing wheels."""
    rows = [{"name": name, **_backend(name)} for name in BACKENDS]
    rows += [_cpu(), _instructions(), _cores(), *_auto()]
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        detail = "onnxruntime and onnxruntime-gpu share one folder and break each other; uninstall both, install one"
        rows.append({"name": "conflict", "ok": False, "detail": detail})
    return rows + _extras()


def _backend(name: str) -> Row:
    row = BACKENDS[name]
    if not row.installed:
        return {"ok": False, "detail": f"{row.about}; not installed: {pip(row.extra)}"}
    try:
        row.load()
    except Unavailable as error:
        return {"ok": False, "detail": f"{row.about}; {error}"}
    examine = getattr(importlib.import_module(row.module), "examine", None)
    there, detail = (
        examine(**row.options) if examine else (True, f"{row.package} {row.version or 'of unknown version'}")
    )
    parts = [row.about, detail, _used(row), f"`auto` never chooses it: it {row.asked}" if row.asked else ""]
    return {"ok": there, "detail": "; ".join(filter(None, parts))}


def _used(row: Backend) -> str:
    """Return the instructions for few bits that this processor has and the engine uses."""
    flags = [flag for flag in cpu()[1] if flag in NAMES]
    used = [
        NAMES[flag] + (f" ({row.instructions[flag]})" if row.instructions[flag] else "")
        for flag in flags
        if flag in row.instructions
    ]
    unused = [NAMES[flag] for flag in flags if flag not in row.instructions]
    if not row.instructions or not flags:
        return ""
    return f"uses {', '.join(used) or 'none of them'}" + (f", not {', '.join(unused)}" if unused else "")


def _cpu() -> Row:
    name, flags = cpu()
    fast = bool(INT8 & set(flags))
    slow = "no int8 instructions known here: in ONNX Runtime, w8a8 takes about as long as float"
    verdict = "int8 is fast here" if fast else slow
    return {"name": "cpu", "ok": fast, "detail": f"{name} ({', '.join(flags) or 'no flags known'}): {verdict}"}


def _instructions() -> Row:
    """List the instructions for 8-bit and bfloat16 products that the processor has, and those it lacks."""
    flags = cpu()[1]
    there = [name for flag, name in NAMES.items() if flag in flags]
    lacking = [name for flag, name in NAMES.items() if flag not in flags]
    detail = f"has {', '.join(there) or 'none'}; lacks {', '.join(lacking) or 'none'}"
    return {"name": "instructions", "ok": bool(there), "detail": f"{detail} (of x86-64, for int8 and bf16)"}


def _auto() -> list[Row]:
    """List the latest choices of `auto` on this machine, and the backends that were left out, with the reason."""
    return [
        {
            "name": "auto",
            "ok": True,
            "detail": "; ".join([str(choice), *(f"{name} left out: {why}" for name, why in choice.left_out.items())]),
        }
        for choice in auto.records()[:SHOWN]
    ]


def _cores() -> Row:
    """Return the number of cores that defaults of --workers and similar options use."""
    limit = quota()
    limited = "no CPU quota" if limit is None else f"CPU quota of its container {limit:g}"
    return {
        "name": "cores",
        "ok": True,
        "detail": f"{cores()} for lf: {os.cpu_count()} in the machine, {affinity()} by affinity, {limited}",
    }


def _extras() -> list[Row]:
    """List the packages of each extra and those that are missing, from the metadata of the package."""
    needs: dict[str, list[str]] = {}
    for text in importlib.metadata.requires(DISTRIBUTION) or []:
        found = re.match(r"([A-Za-z0-9._-]+).*;.*extra == ['\"]([^'\"]+)['\"]", text)
        if found and found[1] != DISTRIBUTION and found[2] not in CONTRIBUTORS:
            needs.setdefault(found[2], []).append(found[1])
    rows = []
    for extra, packages in needs.items():
        missing = [package for package in packages if _version(package) is None]
        detail = f"missing {', '.join(missing)}: {pip(extra)}" if missing else ", ".join(packages)
        rows.append({"name": f"lf[{extra}]", "ok": not missing, "detail": detail})
    return rows


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
