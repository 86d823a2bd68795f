"""The `lf` command: thin. Each command imports its room when it runs, so that `lf --help` stays quick."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from typing import Annotated

import typer

from lf import __version__
from lf.core import LfError, Unavailable, UsageError, console
from lf.core.registry import load_plugins

load_plugins()  # before the commands list the rows of the tables in their help

from lf.cli import check, features, label, look, make, measure, pictures, show, sweep, train, tune, weigh  # noqa: E402

INTERRUPTED = 128 + signal.SIGINT  # the shells' exit code

app = typer.Typer(
    name="lf",
    help="From a PyTorch local-feature network to the device it must run on, knowing what that cost.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
baseline = typer.Typer(help="Reference results that the gate compares with.")
data = typer.Typer(help="Datasets to evaluate on.")

for command in (
    *(make.export, make.quantize, check.check, weigh.sensitivity, train.train, label.label),
    *(measure.bench, measure.compare, sweep.sweep, tune.tune, features.score),
    *(features.extract, pictures.match),
    *(look.inspect, look.doctor, look.models, look.demo),
):
    app.command(epilog=train.LIST if command is train.train else None)(command)
baseline.command()(measure.accept)
data.command("get")(pictures.data_get)
data.command("list")(look.data_list)
data.command("show")(show.data_show)
app.add_typer(baseline, name="baseline")
app.add_typer(data, name="data")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version")] = False
) -> None:
    """From a PyTorch local-feature network to the device it must run on, knowing what that cost."""
    if version:
        console.result(f"lf {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        console.result(context.get_help())


def main() -> None:
    """Run the command line: one line and an exit code for every error (see `lf.core`)."""
    _take_every_name()
    try:
        code = app(standalone_mode=False) or 0
        if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt, without a word
            raise KeyboardInterrupt
    except LfError as error:
        code = _failed(str(error), error.exit_code)
    except typer.TyperException as error:
        text = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
        code = _failed(f"{text.rstrip('.')} (see lf --help)", UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _failed(
            "interrupted; nothing half-written is left, the same command resumes or starts again", INTERRUPTED
        )
    except Exception as error:
        if os.environ.get("LF_DEBUG"):
            raise
        code = _unforeseen(error)
    _give_up_output()
    sys.exit(code if isinstance(code, int) else 0)


def _take_every_name() -> None:
    """Have stdout take what is no text of its encoding, as stderr does, and both be there even where they are closed.

    File names that are not UTF-8 come out as the bytes they are.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  closed, it is None
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def _give_up_output() -> None:
    """Drop what stdout does not take: Python would try once more at its end, complain, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unforeseen(error: Exception) -> int:
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "lf":
        return _failed(f"the package {error.name} is not installed; lf doctor says what to type", Unavailable.exit_code)
    if isinstance(error, OSError):
        return _failed(f"{error.filename or 'output'}: {error.strerror or error}", LfError.exit_code)
    return _failed(f"internal error: {type(error).__name__}: {error} (set LF_DEBUG=1 for the traceback)", 1)


def _failed(text: str, code: int) -> int:
    from lf.cli.translate import translate

    console.note(f"lf: {translate(' '.join(text.splitlines()), typer.main.get_command(app))}")
    return code
