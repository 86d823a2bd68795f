"""The processor: its name, and the features that decide how fast int8 is."""

from __future__ import annotations

import platform
from pathlib import Path

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
INT8 = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}  # any of these multiplies int8 in one instruction


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
