"""Connect to the Ray cluster of the pools, and pass errors from its machines."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lf.core import BadInput, LfError, Unavailable, UsageError
from lf.core.packages import pip

SECONDS = 10  # timeout for the answer of a cluster
ERRORS = {kind.__name__: kind for kind in (LfError, UsageError, Unavailable, BadInput)}


@contextmanager
def connected() -> Iterator[Any]:
    """Yield the package `ray`, connected to the cluster of RAY_ADDRESS or of this machine, otherwise to a new one.

    Raises:
        Unavailable: Ray is not installed, or its cluster does not answer.
        LfError: Ray failed in the block.
    """
    try:
        import ray
    except ImportError as error:
        raise Unavailable(f"`pool=ray` needs the package ray; type: {pip('ray')}") from error
    mine = not ray.is_initialized()
    try:
        if mine:
            _reach(os.environ.get("RAY_ADDRESS", ""))
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        yield ray
    except ConnectionError as error:
        raise Unavailable(f"no Ray cluster is there ({_line(error)}); see: ray status") from error
    except ray.exceptions.RayError as error:
        raise LfError(f"Ray failed ({_line(error)}); the same command goes on where it stopped") from error
    finally:
        if mine:
            ray.shutdown()


def told(error: LfError) -> list[str]:
    """Convert an error to kind and text for another machine; Ray would wrap an exception in a long report."""
    kind = next(name for name, kind in reversed(ERRORS.items()) if isinstance(error, kind))
    return [kind, str(error)]


def heard(words: list[str]) -> LfError:
    """Convert such a description back to an error."""
    kind, text = words
    return ERRORS[kind](text)


def _reach(address: str) -> None:
    """Check that host:port answers, because Ray itself would retry for ten minutes or longer.

    Raises:
        Unavailable: there is no answer.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), SECONDS).close()
    except (OSError, OverflowError) as error:
        raise Unavailable(f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); see: ray status") from error


def _line(error: Exception) -> str:
    """Return the last line of Ray's error, which is the message; the other lines are the stack trace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
