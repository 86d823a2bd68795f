"""Environment of every process of lf: no telemetry, a home folder, threads within the CPU quota.

`lf/__init__.py` calls it, so that every command, every worker process and every program that imports lf has it.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any, cast

from lf.quota import affinity, cores

TELEMETRY_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime 1.29 and later: no events, no identifier in the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",  # crash reports to its makers; the run itself goes where --wandb sends it
    "ENABLE_RUNTIME_UPTIME_TELEMETRY": "0",  # TensorFlow
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
NOT_IMPORTED = ("openvino_telemetry",)  # it sends data when openvino is imported; without it, openvino sends nothing
NO_HOME = "/nonexistent"  # as in the passwd file of a system user without a home folder


def prepare() -> None:
    """Set the environment of this process, which its child processes inherit."""
    os.environ.update(TELEMETRY_OFF)
    for name in NOT_IMPORTED:
        sys.modules.setdefault(name, cast(Any, None))  # its import now raises ImportError
    try:
        Path.home()
    except RuntimeError:  # engines raise it too when they are imported, or make a folder that is called ~
        os.environ["HOME"] = NO_HOME
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would warn about a missing cache folder
    if (allowed := cores()) < affinity():  # OpenMP, BLAS, torch and OpenCV count the cores without a quota
        for name in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
            os.environ.setdefault(name, str(allowed))
