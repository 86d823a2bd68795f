"""The processor: its name, its int8 features, and ratios of times measured on it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lf.core.types import Array

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
INT8 = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}  # each has an instruction for int8 products
NAMES = {  # flag of Linux -> name of an instruction set of x86-64 for few bits
    "avx512_vnni": "VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX-INT8",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX-BF16",
}


def cpu() -> tuple[str, list[str]]:
    """Return the processor's name and its flags that decide the speed of int8."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name", platform.machine()), [flag for flag in FLAGS if flag in flags]


def ratios_of_turns(times: Array | Sequence[float], reference: Array | Sequence[float]) -> Array:
    """Divide times (turns,) by those of the reference in the same turn, in which the machine is the same for both.

    All comparisons of times show the median of these ratios, which is not the ratio of two medians.
    """
    return np.divide(times, reference, dtype=np.float64)
