"""Check engines, providers, processor features and optional packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
from typing import Any

from lf.core import Unavailable
from lf.core.machine import INT8, cpu
from lf.core.packages import DISTRIBUTION, pip
from lf.quota import affinity, cores, quota
from lf.runtimes import BACKENDS

Row = dict[str, Any]
CONTRIBUTORS = ("dev", "docs")  # extras that users need not know of


def examine() -> list[Row]:
    """One row {"name", "ok", "detail"} per backend and extra, of the processor, its cores, and two clashing wheels."""
    rows = [{"name": name, **_backend(name)} for name in BACKENDS]
    rows += [_cpu(), _cores()]
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
    if examine is None:
        return {"ok": True, "detail": f"{row.about} ({row.package} {_module_version(row.package)})"}
    there, detail = examine(**row.options)
    return {"ok": there, "detail": f"{row.about}; {detail}"}


def _cpu() -> Row:
    name, flags = cpu()
    fast = bool(INT8 & set(flags))
    verdict = "int8 is fast here" if fast else "no int8 instructions known here: expect little or no gain from w8a8"
    return {"name": "cpu", "ok": fast, "detail": f"{name} ({', '.join(flags) or 'no flags known'}): {verdict}"}


def _cores() -> Row:
    """How many cores the defaults of --workers and the like go by."""
    limit = quota()
    limited = "no CPU quota" if limit is None else f"CPU quota of its container {limit:g}"
    return {
        "name": "cores",
        "ok": True,
        "detail": f"{cores()} for lf: {os.cpu_count()} in the machine, {affinity()} by affinity, {limited}",
    }


def _extras() -> list[Row]:
    """Packages of each extra, and which are missing, by the package's metadata."""
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


def _module_version(module: str) -> str:
    """Of an importable module, whichever distribution brought it; nothing is imported."""
    return _version(importlib.metadata.packages_distributions().get(module, [module])[0]) or "of unknown version"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
