"""The `lf` command: thin. Each command imports its room when it runs, so that `lf --help` stays quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lf import __version__, console
from lf.core import LfError, UsageError

if TYPE_CHECKING:
    from lf.core import Artifact

app = typer.Typer(
    name="lf",
    help="From a PyTorch local-feature network to the device it must run on, knowing what that cost.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
baseline = typer.Typer(help="Reference results that the gate compares with.", no_args_is_help=True)
app.add_typer(baseline, name="baseline")

File = Annotated[
    str, typer.Argument(metavar="FILE", help="A model file, or the name of shipped weights: see lf models")
]
Out = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the engine")]
Data = Annotated[
    str, typer.Option(metavar="ROOT", help="HPatches-layout folder, warps:DIR of photos, or procedural[:N]")
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version")] = False) -> None:
    """From a PyTorch local-feature network to the device it must run on, knowing what that cost."""
    if version:
        console.result(f"lf {__version__}")
        raise typer.Exit


@app.command()
def export(
    checkpoint: File,
    to: Annotated[str, typer.Option(help="Format of the file to make")] = "onnx",
    size: Annotated[str, typer.Option(metavar="HxW", help="The one input size of the file")] = "240x320",
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Accept every size instead")] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; the default is 18")] = None,
    images: Annotated[Path | None, typer.Option(help="Photos for the parity check; drawn pictures otherwise")] = None,
    output: Out = None,
) -> None:
    """Turn a checkpoint into another format: same numbers, checked against it before anything is written."""
    from lf.export import export as run

    options: dict[str, Any] = {"size": None if dynamic else _size(size), "images": images}
    if opset is not None:
        options["opset"] = opset
    console.result(run(_resolve(checkpoint), to, output, **options).path)


@app.command()
def quantize(
    model: File,
    images: Annotated[Path, typer.Option(metavar="DIR", help="Photos to calibrate on; none of the benchmark")],
    scheme: Annotated[str, typer.Option(help="Name of the number format, such as w8a8")] = "w8a8",
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most so many photos")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the photos when there are more")] = 0,
    exclude: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Benchmark whose images must not be used")
    ] = None,
    output: Out = None,
) -> None:
    """Turn a float ONNX file into one with fewer bits: other numbers, measured by lf bench."""
    from lf.quantize import LIMIT
    from lf.quantize import quantize as run

    with console.progress() as progress:
        made = run(
            _resolve(model), scheme, images, output, seed=seed, exclude=exclude, progress=progress, limit=limit or LIMIT
        )
    console.result(made.path)


@app.command()
def bench(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Model files or names of shipped weights")],
    backend: Annotated[str, typer.Option(help="Engines, separated by commas; each runs the files it can")] = "ort-cpu",
    data: Data = "procedural",
    protocol: Annotated[str, typer.Option(help="How the numbers are made: superpoint, kp2d, kp2d-640, mma")] = "kp2d",
    limit_sequences: Annotated[int | None, typer.Option(min=1, help="Use the first so many sequences")] = None,
    threads: Threads = 1,
    repeats: Annotated[int, typer.Option(min=0, help="Timed extractions per variant; 0 leaves latency out")] = 30,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep results.json and cached features here")] = None,
    json: Json = False,
) -> None:
    """Evaluate files in engines on the same pairs: accuracy, drop against the first, latency, size."""
    from lf.benchmarks import report, results
    from lf.benchmarks.suite import suite

    with console.progress() as progress:
        runs = suite(
            [_resolve(name) for name in files],
            backend.split(","),
            data,
            protocol,
            limit_sequences=limit_sequences,
            threads=threads,
            repeats=repeats,
            cache=out / "cache" if out else None,
            progress=progress,
        )
    if json:
        console.as_json(results.document(runs))
    else:
        console.result(report.page(runs))
    if out:
        path = results.save(out / "results.json", runs)
        console.note(f"wrote {path}") if json else console.result(path)


@app.command()
def compare(
    reference: Annotated[Path, typer.Argument(metavar="REF.json", help="Results to compare with")],
    new: Annotated[Path, typer.Argument(metavar="NEW.json", help="Results to judge")],
    gates: Annotated[Path, typer.Option(metavar="FILE", help="TOML file of [[gate]] tables")],
    json: Json = False,
) -> None:
    """Judge new results by gates; exit code 3 when one fails."""
    from dataclasses import asdict

    from lf.benchmarks import gate, report, results

    found = gate.compare(results.load(reference), results.load(new), gate.load_gates(gates))
    if json:
        console.as_json([{**asdict(verdict), "passed": verdict.passed} for verdict in found])
    else:
        console.result(report.verdicts(found))
    console.summary(report.verdicts(found))
    gate.enforce(found)


@baseline.command()
def accept(
    new: Annotated[Path, typer.Argument(metavar="NEW.json", help="Results to hold future ones against")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The baseline to replace")],
) -> None:
    """Make results the baseline; nothing else ever changes it."""
    from lf.benchmarks import results

    console.result(results.save(output, results.load(new)))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a training recipe")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Weights, checkpoint and log; the same DIR resumes")],
    data: Annotated[str, typer.Option(metavar="DIR", help="A folder of photos, or: procedural")] = "procedural",
    change: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Threads = 1,
) -> None:
    """Train a network from nothing; stop and run again to resume exactly."""
    from lf.core import pick
    from lf.train import RECIPES
    from lf.train.loop import train as run

    chosen = pick(RECIPES, recipe, "recipe").override(change or [])
    with console.progress() as progress:
        made = run(chosen, data, out, device=device, threads=threads, progress=progress)
    console.result(made.path)


@app.command()
def inspect(file: File, json: Json = False) -> None:
    """Print the card a file carries: what it is, what it was made from, and how."""
    from dataclasses import asdict

    artifact = _resolve(file)
    card = {"file": str(artifact.path), "bytes": artifact.bytes, "sha256": artifact.sha256, **asdict(artifact.card)}
    if json:
        console.as_json(card)
        return
    for key, value in card.items():
        console.result(f"{key:9} {value}" if key != "made" else "made")
    for step in artifact.card.made:
        console.result("  " + "  ".join(f"{name}={value}" for name, value in step.items() if name != "calibration"))
        if "calibration" in step:
            used = {name: value for name, value in step["calibration"].items() if name != "files"}
            console.result(f"    calibration {used}")


@app.command()
def doctor(json: Json = False) -> None:
    """Say which engines, providers and processor features are there, and what to type for the missing ones."""
    from lf.runtimes.doctor import examine

    rows = examine()
    if json:
        console.as_json(rows)
        return
    for row in rows:
        console.result(f"{'ok ' if row['ok'] else '-- '} {row['name']:12} {row['detail']}")


@app.command()
def models(json: Json = False) -> None:
    """List the networks lf knows and the weights that ship with it."""
    from lf.models import MODELS
    from lf.models.resolve import shipped

    weights = {name: path.stat().st_size for name, path in shipped().items()}
    if json:
        rows = {n: {"about": m.about, "parameters": m.parameters, "shipped": weights.get(n)} for n, m in MODELS.items()}
        console.as_json(rows)
        return
    for name, model in MODELS.items():
        ships = f"ships, {weights[name] / 1e6:.1f} MB" if name in weights else "bring a checkpoint"
        console.result(f"{name:14} {model.parameters:>10,} parameters  {ships:18}  {model.about}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go")] = Path("out/demo"),
    threads: Threads = 1,
) -> None:
    """The main job on the shipped network: export, quantize, bench, picture; no data needed."""
    from lf.demo import demo as run

    with console.progress() as progress:
        run(out, threads, progress)


def _resolve(name: str) -> Artifact:
    from lf.models.resolve import resolve

    return resolve(name)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise UsageError(f"--size {text}: expected HEIGHTxWIDTH in pixels, for example --size 240x320")
    return int(height), int(width)


def main() -> None:
    """Run the command line: one line and an exit code for every error (see `lf.core`)."""
    try:
        code = app(standalone_mode=False) or 0
    except LfError as error:
        console.note(f"lf: {error}")
        code = error.exit_code
    except typer.TyperException as error:
        console.note(
            f"lf: {error.format_message() if isinstance(error, typer.BadParameter) else error} (see lf --help)"
        )
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        console.note("lf: interrupted; nothing half-written is left, the same command resumes or starts again")
        code = 130
    except Exception as error:
        if os.environ.get("LF_DEBUG"):
            raise
        console.note(f"lf: internal error: {type(error).__name__}: {error} (set LF_DEBUG=1 for the traceback)")
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
