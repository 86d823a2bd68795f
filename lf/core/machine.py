"""The processor: its name, its int8 features, and ratios of times measured on it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lf.core.types import Array

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
INT8 = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}  # any of these multiplies int8 in one instruction
NAMES = {  # flag of Linux -> its name; the instruction sets of x86-64 that multiply few bits
    "avx512_vnni": "VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX-INT8",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX-BF16",
}


def cpu() -> tuple[str, list[str]]:
    """The processor's name and those of its flags that decide how fast int8 is."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name", platform.machine()), [flag for flag in FLAGS if flag in flags]


def ratios_of_turns(times: Array | Sequence[float], reference: Array | Sequence[float]) -> Array:
    """(turns,) times over those of the reference in the same turn, (turns,) each: in a turn both meet the same machine.

    The median of these is what every comparison of times shows; a ratio of two medians is another number.
    """
    return np.divide(times, reference, dtype=np.float64)
