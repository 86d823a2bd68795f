"""The `lf` command. Each command imports what it needs when it runs, so `lf --help` is fast."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any

import typer

from lf import __version__
from lf.core import LfError, Unavailable, UsageError, console
from lf.core.registry import load_plugins

load_plugins()  # before the commands list the rows of the tables in their help

from lf.cli import (  # noqa: E402
    adopt,
    baseline_accept,
    bench,
    check,
    compare,
    data_draw,
    data_get,
    data_list,
    data_masks,
    data_show,
    demo,
    doctor,
    export,
    extract,
    help,
    inspect,
    label,
    live,
    localize,
    match,
    models,
    quantize,
    renamed,
    report,
    score,
    search,
    sensitivity,
    sfm,
    sweep,
    time,
    train,
    tune,
)

INTERRUPTED = 128 + signal.SIGINT  # the shells' exit code
TERMINATED = 128 + signal.SIGTERM
ABOUT = "Export, quantize and benchmark local-feature networks."
HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="lf",
    help=ABOUT,
    cls=help.Group,
    context_settings=HELP,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
baseline = typer.Typer(help="Reference results of the gate.", cls=help.Group, rich_markup_mode="rich")
data = typer.Typer(help="Datasets: draw, download, convert, list, show.", cls=help.Group, rich_markup_mode="rich")

PANELS: dict[str, tuple[Any, ...]] = {  # panels of lf --help -> commands in order; files are named after commands
    "Convert": (export, adopt, quantize, search, sensitivity, check),
    "Measure": (bench, sfm, localize, time, compare, report, tune, sweep, score),
    "Use": (extract, match, live, demo),
    "Train": (train, label),
    "Inspect": (inspect, models, doctor),
}


def _add(group: typer.Typer, name: str, module: Any, function: Callable[..., None], panel: str | None = None) -> None:
    text = help.epilog(module, function)
    group.command(name, cls=help.Command, epilog=text, rich_help_panel=panel)(function)


for panel, modules in PANELS.items():
    for module in modules:
        name = module.__name__.rpartition(".")[2]
        _add(app, name, module, getattr(module, name), panel)
_add(baseline, "accept", baseline_accept, baseline_accept.accept)
_add(data, "draw", data_draw, data_draw.data_draw)
_add(data, "get", data_get, data_get.data_get)
_add(data, "list", data_list, data_list.data_list)
_add(data, "masks", data_masks, data_masks.data_masks)
_add(data, "show", data_show, data_show.data_show)
app.add_typer(baseline, name="baseline", rich_help_panel="Measure")
app.add_typer(data, name="data", rich_help_panel="Inspect")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version")] = False
) -> None:
    """Export, quantize and benchmark local-feature networks."""
    if version:
        console.result(f"lf {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        console.result(context.get_help())
    else:
        console.task = f"lf {context.invoked_subcommand}"


def main() -> None:
    """Run the command line: one line and an exit code for every error (see `lf.core`)."""
    _take_every_name()
    ended: list[int] = []  # the signal that ended the command, other than Ctrl-C
    _end_cleanly(ended)
    try:
        code = app(prog_name="lf", standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer's code of a KeyboardInterrupt, without a text
            raise KeyboardInterrupt
    except LfError as error:
        code = _failed(str(error), error.exit_code)
    except typer.TyperException as error:
        said = isinstance(error, typer.BadParameter) or getattr(error, "possibilities", None)  # of near names
        text = error.format_message() if said else str(error)
        moved = renamed.now(error)
        code = _failed(moved or f"{text.rstrip('.')} (see {_place(error)} --help)", UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        what, number = ("terminated", TERMINATED) if ended else ("interrupted", INTERRUPTED)
        code = _failed(f"{what}; nothing half-written is left, the same command resumes or starts again", number)
    except Exception as error:
        if os.environ.get("LF_DEBUG"):
            raise
        code = _unforeseen(error)
    _give_up_output()
    sys.exit(code if isinstance(code, int) else 0)


def _end_cleanly(ended: list[int]) -> None:
    """End the command on the signal of batch systems as on Ctrl-C, with temporary files removed."""

    def end(number: int, _: object) -> None:
        ended.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _place(error: typer.TyperException) -> str:
    """Return the command of the error, as typed."""
    context = getattr(error, "ctx", None)
    return context.command_path if context else "lf"


def _take_every_name() -> None:
    """Make stdout accept text outside its encoding, as stderr does, and replace closed streams.

    File names that are not UTF-8 are printed as their bytes.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  closed, it is None
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def _give_up_output() -> None:
    """Discard unwritten output of a closed stdout: otherwise Python would retry at exit, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unforeseen(error: Exception) -> int:
    if isinstance(error, ImportError) and error.name and error.name.partition(".")[0] != "lf":
        text = f"the package {error.name} is not installed; lf doctor says what to type"
        if not isinstance(error, ModuleNotFoundError):
            text = f"the package {error.name} cannot be imported ({error}); lf doctor says what is wrong"
        return _failed(text, Unavailable.exit_code)
    if isinstance(error, OSError):
        return _failed(f"{error.filename or 'output'}: {error.strerror or error}", LfError.exit_code)
    return _failed(f"internal error: {type(error).__name__}: {error} (set LF_DEBUG=1 for the traceback)", 1)


def _failed(text: str, code: int) -> int:
    console.note(f"lf: {spell(' '.join(text.splitlines()))}")
    return code


def spell(text: str) -> str:
    """Convert parameters in the text of an error or warning to options; see `lf.cli.translate`."""
    from lf.cli.translate import translate

    return translate(text, typer.main.get_command(app))
