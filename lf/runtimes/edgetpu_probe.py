"""Check the Edge TPU in a separate process, which may crash: `python -m lf.runtimes.edgetpu_probe JOB`.

Every step is printed on stdout before it runs, one JSON object per line, so that `lf.runtimes.edgetpu` knows the last
step.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import LfError, one_line
from lf.formats import model_file
from lf.runtimes.litert import LitertSession, load


class Device(ctypes.Structure):
    """`edgetpu_device` of edgetpu_c.h: its type, 0 for PCI and 1 for USB, and its path."""

    _fields_ = (("type", ctypes.c_int), ("path", ctypes.c_char_p))


def tell(**what: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(what), flush=True)


def probe(name: str, wanted: str, path: str | None) -> None:
    """Run the steps; an error is printed and ends them.

    Raises:
        OSError: the library cannot be loaded, or the file cannot be read.
        AttributeError: it lacks a function.
        LookupError: no such device.
        ValueError: the device cannot be opened.
        LfError: the file does not run.
    """
    tell(step="load the library", litert=importlib.metadata.version("ai-edge-litert"))
    loaded = ctypes.CDLL(name)
    tell(step="be asked for its version")
    loaded.edgetpu_version.restype = ctypes.c_char_p
    version = (loaded.edgetpu_version() or b"").decode(errors="replace")
    tell(library={"path": where(name), "sha256": digest(where(name)), "version": version})
    tell(step="list its devices")
    found = devices(loaded)
    tell(devices=[f"{kind} {at}" for kind, at in found])
    kind, _, number = wanted.partition(":")
    if len([one for one, _ in found if kind in ("", one)]) <= int(number or 0):
        raise LookupError("no such device")
    if path is None:
        return
    from ai_edge_litert.interpreter import load_delegate

    tell(step="open the device")
    delegate = load_delegate(name, {"device": wanted} if wanted else {})
    tell(step="load the file")
    artifact = model_file.load(Path(path))
    session = LitertSession(artifact, load(artifact)[0], 1, "probe", delegate)
    tell(step="run the file")
    channels, height, width = artifact.card.input
    session.run(np.zeros((1, channels, height or 0, width or 0), np.float32))
    tell(step="end")


def devices(loaded: ctypes.CDLL) -> list[tuple[str, str]]:
    """Return ("pci" or "usb", path) of each device, in the library's order."""
    loaded.edgetpu_list_devices.restype = ctypes.POINTER(Device)
    loaded.edgetpu_list_devices.argtypes = (ctypes.POINTER(ctypes.c_size_t),)
    loaded.edgetpu_free_devices.argtypes = (ctypes.POINTER(Device),)
    count = ctypes.c_size_t()
    first = loaded.edgetpu_list_devices(ctypes.byref(count))
    found = [
        ("usb" if first[n].type == 1 else "pci", (first[n].path or b"").decode(errors="replace"))
        for n in range(count.value if first else 0)
    ]
    if first:
        loaded.edgetpu_free_devices(first)
    return found


def where(name: str) -> str:
    """Return the file that the loader opened for a library, or its name if the system does not tell."""
    with suppress(OSError):
        wanted = Path(name).resolve().name if Path(name).exists() else Path(name).name.partition(".so")[0]
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.partition("/")
            if path[1] and Path(path[2]).name.startswith(wanted):
                return "/" + path[2]
    return name


def digest(path: str) -> str | None:
    """Return the hex sha256 of a file, None if it cannot be read."""
    with suppress(OSError):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return None


if __name__ == "__main__":
    try:
        probe(*json.loads(sys.argv[1]))
    except (OSError, AttributeError, LookupError, ValueError, LfError) as error:
        tell(error=one_line(error))
        sys.exit(1)
