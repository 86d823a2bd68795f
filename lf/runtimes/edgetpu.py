"""The Edge TPU: LiteRT with the delegate of libedgetpu. Raise an error instead of falling back to the CPU.

Two environment variables describe the machine:

- LF_EDGETPU_DEVICE chooses a device by libedgetpu's name: `usb`, `pci`, `usb:1`, `:0`; by default the first free one.
- LF_EDGETPU_LIBRARY names another library. Its results are marked, and `lf bench` refuses them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import cache
from typing import Any

from lf.core import Artifact, Unavailable, UsageError, one_line
from lf.runtimes.litert import LitertSession, load
from lf.runtimes.tflite_signature import signature

LIBRARY, DEVICE = "LF_EDGETPU_LIBRARY", "LF_EDGETPU_DEVICE"
NAMES = {"darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}
VERSION = re.compile(r"BuildLabel\(.*\), RuntimeVersion\(\d+\)")  # answer of edgetpu_version()
KINDS = ("pci", "usb")  # values of edgetpu_device_type
PROVIDER = "edgetpu"
SECONDS = 120  # timeout; a working device answers in a few
INSTALL = "install libedgetpu1-std in the version for this LiteRT: see docs/how-to/raspberry-pi.md"


def open_session(artifact: Artifact, threads: int) -> LitertSession:
    """Open a compiled file on the Edge TPU, after a test run in a separate process.

    Raises:
        UsageError: not compiled for the Edge TPU, so it would run on the CPU; or LF_EDGETPU_DEVICE is not a device.
        Unavailable: no library, no device, no permission, or incompatible versions; see `probe`.
        BadInput: its tensors do not match its card.
    """
    model, compiled = load(artifact)
    if not compiled:
        raise UsageError(
            f"{artifact.path}: is not compiled for the Edge TPU and would run on the CPU; "
            "compile it with: `export(FILE, to=edgetpu)`, or choose `backend=tflite`"
        )
    signature(artifact, model)
    found = probe(library(), device(), str(artifact.path), artifact.sha256)
    notes = {"library": {**found["library"], "devices": found["devices"], "chosen": device() or "any"}}
    return LitertSession(artifact, model, threads, provider(found), delegate(library(), device()), notes)


def library() -> str:
    """Return the library to load: a path, or a name for the loader."""
    return os.environ.get(LIBRARY) or NAMES.get(sys.platform, "libedgetpu.so.1")


def device() -> str:
    """Return the device to use; "" for any.

    Raises:
        UsageError: libedgetpu does not take it.
    """
    text = os.environ.get(DEVICE, "")
    if not re.fullmatch(r"(usb|pci)?(:\d+)?", text):
        raise UsageError(f"{DEVICE}={text}: expected usb, pci, or one of them with its number: usb:0, pci:1, :0")
    return text


def provider(found: dict[str, Any]) -> str:
    """Return `edgetpu` for the installed libedgetpu with a device; another name for a stand-in library."""
    genuine = LIBRARY not in os.environ and VERSION.fullmatch(found["library"]["version"]) and found["devices"]
    return PROVIDER if genuine else f"{PROVIDER} (library {found['library']['path']})"


def delegate(name: str, wanted: str) -> Any:
    """Load the delegate of the library; it must live as long as its interpreter.

    Raises:
        Unavailable: the device cannot be opened, although the test run could.
    """
    from ai_edge_litert.interpreter import load_delegate

    try:
        return load_delegate(name, {"device": wanted} if wanted else {})
    except (OSError, ValueError) as error:
        raise Unavailable(f"the Edge TPU cannot be opened any more: {one_line(error)}") from error


@cache
def probe(name: str, wanted: str, path: str | None = None, sha256: str | None = None) -> dict[str, Any]:
    """Open the device, and a file on it, in a separate process, so that a crash does not end this one.

    Args:
        name: name of the library.
        wanted: device.
        path: compiled file to run once, or None to check only library and devices.
        sha256: sha256 of the file, as key of cached results.

    Returns:
        {"library": {"path", "sha256", "version"}, "devices": ["usb /sys/...", ...]}

    Raises:
        Unavailable: something is missing; the text says what to do.
    """
    command = [sys.executable, "-m", "lf.runtimes.edgetpu_probe", json.dumps([name, wanted, path])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"the Edge TPU did not answer within {SECONDS} s; unplug it and plug it in again") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: dict[str, Any] = {}
    for line in lines:
        found.update(json.loads(line))
    if done.returncode == 0 and "error" not in found:
        return found
    raise Unavailable(_why(found, name, wanted, done.returncode))


def _why(found: dict[str, Any], name: str, wanted: str, code: int) -> str:
    """Return the error for the step that the probe reached."""
    step, error = found.get("step", "start"), found.get("error", "")
    here = ", ".join(found.get("devices", ())) or "none"
    if code < 0:
        return (
            f"the Edge TPU runtime {name} crashes ({_signal(code)}) when it should {step}: it and this LiteRT "
            f"{found.get('litert', '')} do not match; {INSTALL}"
        )
    if step == "load the library":
        return f"the Edge TPU runtime cannot be loaded: {error}; {INSTALL}"
    if step == "be asked for its version":
        return f"{name} is no libedgetpu: {error}; unset {LIBRARY}, and {INSTALL}"
    if step == "list its devices":
        if found.get("devices"):
            return f"no Edge TPU is at {DEVICE}={wanted}; there are: {here}"
        return "no Edge TPU is connected, or none that the system shows; plug it in, USB 3 if there is, and see: lsusb"
    if step == "open the device":
        return (
            f"an Edge TPU is connected ({here}) but cannot be opened: another process has it, or you may not; for the "
            "latter: sudo usermod -aG plugdev $USER, log in again, plug it in again"
        )
    return f"the Edge TPU runtime {found.get('library', {}).get('version', name)} cannot {step}: {error}"


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def examine() -> tuple[bool, str]:
    """Check for `lf doctor` whether there is an Edge TPU; also return its name, or what to do."""
    try:
        found = probe(library(), device())
    except (Unavailable, UsageError) as error:
        return False, str(error)
    return True, f"{provider(found)}: {', '.join(found['devices'])}; {found['library']['version']}"
