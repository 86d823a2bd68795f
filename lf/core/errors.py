"""Errors and their exit codes."""

from __future__ import annotations


class LfError(Exception):
    """What happened, what was expected, what to type: one line. `exit_code` is the process's exit code."""

    exit_code = 1


class UsageError(LfError):
    """The command line asks for something that does not exist or does not fit."""

    exit_code = 2


class GateFailed(LfError):
    """A figure fell outside its gate."""

    exit_code = 3


class Unavailable(LfError):
    """An engine, execution provider, device or optional package is not there."""

    exit_code = 4


class BadInput(LfError):
    """A file or a folder does not hold what it should."""

    exit_code = 5


def one_line(error: BaseException, most: int | None = None) -> str:
    """What an error of a library says, without its line breaks, and of long ones the first so many characters."""
    return " ".join(str(error).split())[:most]
