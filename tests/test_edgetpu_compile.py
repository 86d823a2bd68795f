"""The Edge TPU compiler, played by a script of its name: what it may print and leave, and what becomes of it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tflite_files import compiled, heads, save

from lf import cli
from lf.cli import export as command
from lf.core import GateFailed, LfError, Unavailable, UsageError
from lf.edgetpu import compiler as to_edgetpu
from lf.edgetpu import log as edgetpu_log
from lf.export import TARGETS, export
from lf.formats import model_file, tflite

pytest.importorskip("flatbuffers")
pytest.importorskip("ai_edge_litert.schema_py_generated")

HEADER = "Edge TPU Compiler version 16.0.384591198\nStarted a compilation timeout timer of 180 seconds.\n"
SUMS = """
Model compiled successfully in 96 ms.

Input model: model.tflite
Input size: 7.02KiB
Output model: model_edgetpu.tflite
Output size: 7.14KiB
On-chip memory used for caching model parameters: 80.00KiB
On-chip memory remaining for caching model parameters: 6.04MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: {subgraphs}
Total number of operations: {total}
Operation log: model_edgetpu.log
"""
SHARED = """
Model successfully compiled but not all operations are supported by the Edge TPU.
Number of operations that will run on Edge TPU: {mapped}
Number of operations that will run on CPU: {cpu}
"""
TABLE = "\nOperator                       Count      Status\n\n"
END = "Compilation child process completed within timeout period.\nCompilation succeeded! \n"
FAILED = "Compilation child process completed within timeout period.\nCompilation failed! \n"
INTERNAL = f"{HEADER}\nInternal compiler error. Aborting! \n{FAILED}"
REJECTED = (
    f"{HEADER}ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'. An older version of this builtin might "
    "be supported. Are you using an old TFLite binary with a newer model?\n\nERROR: Registration failed.\n\n"
    f"Invalid model: model.tflite\nModel could not be parsed\n{FAILED}"
)
UNRESOLVED = (
    f"{HEADER}ERROR: Encountered unresolved custom op: Atan.\nERROR: Node number 1 (Atan) failed to prepare.\n\n"
    f"Compilation failed: Model failed in Tflite interpreter. Please ensure model can be loaded.\n{FAILED}"
)


def table(*rows):
    """The table of operators, of (operator, count, status)."""
    return TABLE + "".join(f"{name:<30} {count:<10} {status}\n" for name, count, status in rows)


def success(*rows):
    """Return the compiler's output with -s for a file of these operators."""
    total = sum(count for _, count, _ in rows)
    mapped = sum(count for _, count, status in rows if status == edgetpu_log.MAPPED)
    sums = SUMS.format(subgraphs=int(mapped > 0), total=total)
    return (
        HEADER
        + sums
        + (SHARED.format(mapped=mapped, cpu=total - mapped) if mapped < total else "")
        + table(*rows)
        + END
    )


ALL = success(("CONV_2D", 2, edgetpu_log.MAPPED))
FAKE = """#!{python} -S
import json, pathlib, sys, time
here = pathlib.Path({folder!r})
runs = json.loads((here / "runs.json").read_text())
calls = here / "calls.json"
done = json.loads(calls.read_text()) if calls.exists() else []
run = runs[min(len(done), len(runs) - 1)]
done.append(sys.argv[1:])
calls.write_text(json.dumps(done))
assert pathlib.Path(sys.argv[-1]).read_bytes()[4:8] == b"TFL3"
folder = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
sys.stdout.write(run["says"])
sys.stdout.flush()
if run["log"]:
    (folder / "model_edgetpu.log").write_text(run["log"])
if run["makes"]:
    (folder / "model_edgetpu.tflite").write_bytes((here / run["makes"]).read_bytes())
time.sleep(run["sleeps"])
sys.exit(run["code"])
"""


@pytest.fixture
def parent(tmp_path):
    """An int8 file of wren's heads: two convolutions that are predicted to map."""
    return save(tmp_path / "wren.w8a8.tflite", heads("wren")[0], "wren")


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Put a compiler on the PATH; each of its runs says, makes, logs, sleeps and returns what is given, then the last.

    Returns the calls it got.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "good.tflite").write_bytes(tflite.write(compiled("wren")))
    script = folder / "edgetpu_compiler"
    script.write_text(FAKE.format(python=sys.executable, folder=str(folder)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def install(*runs, **files_there):
        for name, data in files_there.items():
            (folder / f"{name}.tflite").write_bytes(data)
        usual = {"says": "", "makes": "", "log": "", "sleeps": 0, "code": 0}
        (folder / "runs.json").write_text(json.dumps([usual | run for run in runs]))
        return lambda: json.loads((folder / "calls.json").read_text())

    return install


def made_step(artifact):
    """The last step of a card."""
    return artifact.card.made[-1]


def test_a_compiled_file_keeps_its_card_and_says_what_mapped(parent, compiler, tmp_path):
    calls = compiler({"says": ALL, "makes": "good.tflite"})
    made = export(parent, "edgetpu", tmp_path / "wren_edgetpu.tflite")
    assert calls() == [["-s", "-o", ".", "model.tflite"]]
    assert model_file.load(made.path).card == made.card
    assert made.card.outputs == parent.card.outputs
    assert made.card.scheme == "w8a8"
    step = made_step(made)
    assert (step.command, step.options, step.parent) == ("export", {"to": "edgetpu"}, parent.sha256)
    assert step.versions["edgetpu_compiler"] == "16.0.384591198"
    assert step.extra["tries"] == [{"flags": "-s -o .", "outcome": "2 of 2 mapped"}]
    assert step.extra["compiled"]["memory"] == {
        "on_chip_used": 80 << 10,
        "on_chip_left": round(6.04 * (1 << 20)),
        "streamed": 0,
    }
    assert step.extra["compiled"]["table"] == [{"operator": "CONV_2D", "count": 2, "status": "Mapped to Edge TPU"}]
    assert step.extra["predicted"]["counts"] == {"maps": 2, "uncertain": 0, "cpu": 0}
    conv = {"predicted": {"maps": 2, "uncertain": 0, "cpu": 0}, "mapped": 2, "cpu": 0, "agrees": True}
    assert step.extra["outcome"] == {"CONV_2D": conv}
    assert step.warnings == []
    assert tflite.without_archive(made.path.read_bytes()) == tflite.write(compiled("wren"))


def test_its_name_says_what_it_is(parent, compiler, tmp_path, monkeypatch):
    compiler({"says": ALL, "makes": "good.tflite"})
    monkeypatch.chdir(tmp_path)
    assert export(parent, "edgetpu").path == Path("wren.w8a8_edgetpu.tflite")
    with pytest.raises(UsageError, match=r"writes _edgetpu.tflite files; type: -o new_edgetpu.tflite"):
        export(parent, "edgetpu", tmp_path / "new.tflite")


def test_the_command_compiles(parent, compiler, tmp_path, capsys):
    compiler({"says": ALL, "makes": "good.tflite"})
    out = tmp_path / "new_edgetpu.tflite"
    command.export(str(parent.path), to="edgetpu", output=out)
    assert capsys.readouterr().out == f"{out}\n"
    assert TARGETS["edgetpu"].parent == "tflite"


def test_without_the_compiler_it_says_how_to_get_it(parent, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    before = parent.path.read_bytes()
    text = (
        r"edgetpu_compiler is not on the PATH; it runs on Debian-like x86-64 systems only: install the package "
        r"edgetpu-compiler .* or build the container in docs/how-to/coral.md. .*wren.w8a8.tflite stays as it is, "
        r"predicted: 2 operators map, 0 uncertain, 0 on the CPU; see: lf check "
    )
    with pytest.raises(Unavailable, match=text) as error:
        export(parent, "edgetpu", tmp_path / "new_edgetpu.tflite")
    assert error.value.exit_code == 4
    assert parent.path.read_bytes() == before
    assert not (tmp_path / "new_edgetpu.tflite").exists()


@pytest.mark.parametrize(
    "status",
    [
        edgetpu_log.MAPPED,
        "Operation is working on an unsupported data type",
        "Operation not supported",
        "Operation version not supported",
        "More than one subgraph is not supported",
        "Tensor has unsupported rank (up to 3 innermost dimensions mapped)",
        "Operation is otherwise supported, but not mapped due to some unspecified limitation",
    ],
)
def test_every_status_is_read(status):
    log = edgetpu_log.parse(success(("CONV_2D", 17, status), ("MAX_POOL_2D", 3, edgetpu_log.MAPPED)))
    assert log.rows == (("CONV_2D", 17, status), ("MAX_POOL_2D", 3, "Mapped to Edge TPU"))
    assert (log.mapped, log.total) == ((20 if status == edgetpu_log.MAPPED else 3), 20)
    mapped = 17 if status == edgetpu_log.MAPPED else 0
    assert log.by_kind()["CONV_2D"] == {"mapped": mapped, "cpu": 17 - mapped}
    assert log.succeeded
    assert status in (Path(__file__).parents[1] / "docs/how-to/coral.md").read_text()


def test_a_table_in_the_log_file_only_is_found(parent, compiler, tmp_path):
    printed = HEADER + SUMS.format(subgraphs=1, total=2) + END
    compiler({"says": printed, "makes": "good.tflite", "log": HEADER + table(("CONV_2D", 2, edgetpu_log.MAPPED))})
    assert made_step(export(parent, "edgetpu", tmp_path / "new_edgetpu.tflite")).extra["compiled"]["mapped"] == 2


def test_a_log_without_a_table_is_counted_by_its_sums():
    whole = edgetpu_log.parse(HEADER + SUMS.format(subgraphs=1, total=23) + END)
    part = edgetpu_log.parse(HEADER + SUMS.format(subgraphs=1, total=23) + SHARED.format(mapped=6, cpu=17) + END)
    none = edgetpu_log.parse(HEADER + SUMS.format(subgraphs=0, total=23) + END)
    assert [(log.mapped, log.total) for log in (whole, part, none)] == [(23, 23), (6, 23), (0, 23)]


def test_of_several_tables_the_last_counts():
    tries = table(("CONV_2D", 9, "Operation not supported")) + "\n" + table(("CONV_2D", 5, edgetpu_log.MAPPED))
    assert edgetpu_log.parse(HEADER + tries).rows == (("CONV_2D", 5, "Mapped to Edge TPU"),)


def test_a_success_with_nothing_mapped_is_none(parent, compiler, tmp_path):
    rows = [("CONV_2D", 2, "Operation is working on an unsupported data type")]
    compiler({"says": success(*rows), "makes": "good.tflite"})
    text = (
        r"made a file, but none of its 2 operators runs on the Edge TPU "
        r"\(2 CONV_2D: Operation is working on an unsupported data type\); nothing was written; see: lf check"
    )
    with pytest.raises(GateFailed, match=text):
        export(parent, "edgetpu", tmp_path / "new_edgetpu.tflite")
    assert not (tmp_path / "new_edgetpu.tflite").exists()


@pytest.mark.parametrize(
    ("says", "code", "problem"),
    [
        (REJECTED, 1, "it does not know CONV_2D version 6"),
        (REJECTED, 0, "it does not know CONV_2D version 6"),
        (UNRESOLVED, 1, "it does not know the custom operator Atan"),
        (f"{HEADER}Invalid model: model.tflite\nModel could not be parsed\n", 1, "it cannot read the file"),
        (f"{HEADER}{FAILED}", 1, "it made no file, and did not say why"),
        ("", 1, "it made no file, and did not say why"),
        (f"{HEADER}Compilation timed out.\n", 1, "it ran out of time"),
    ],
)
def test_a_refusal_says_why(parent, compiler, tmp_path, says, code, problem):
    calls = compiler({"says": says, "code": code})
    with pytest.raises(GateFailed, match=f"edgetpu_compiler .*refuses it: {problem}; nothing was written"):
        export(parent, "edgetpu", tmp_path / "new_edgetpu.tflite")
    assert len(calls()) == 1
    assert not (tmp_path / "new_edgetpu.tflite").exists()


def test_a_refusal_that_was_predicted_says_so(compiler, tmp_path):
    model = heads("wren")[0]
    model.operatorCodes[0].version = 6
    compiler({"says": REJECTED, "code": 1})
    with pytest.raises(GateFailed, match="the compiler knows up to 5; the option fix repairs it; nothing was written"):
        export(save(tmp_path / "m.tflite", model, "wren"), "edgetpu", tmp_path / "new_edgetpu.tflite")


def test_an_internal_error_is_tried_again(parent, compiler, tmp_path):
    calls = compiler({"says": INTERNAL, "code": 1}, {"says": ALL, "makes": "good.tflite"})
    step = made_step(export(parent, "edgetpu", tmp_path / "new_edgetpu.tflite"))
    assert [each["outcome"] for each in step.extra["tries"]] == ["internal compiler error", "2 of 2 mapped"]
    assert calls()[0] == calls()[1]


def test_then_a_part_is_searched_that_compiles(parent, compiler, tmp_path):
    rows = [("CONV_2D", 1, edgetpu_log.MAPPED), ("CONV_2D", 1, "More than one subgraph is not supported")]
    calls = compiler(*[{"says": INTERNAL, "code": 1}] * 2, {"says": success(*rows), "makes": "good.tflite"})
    step = made_step(export(parent, "edgetpu", tmp_path / "new_edgetpu.tflite"))
    assert calls()[2] == ["-d", "-s", "-o", ".", "model.tflite"]
    assert [each["flags"] for each in step.extra["tries"]] == ["-s -o .", "-s -o .", "-d -s -o ."]
    assert step.extra["outcome"]["CONV_2D"]["agrees"] is False
    predicted = "predicted were 2 mapped, 0 uncertain, 0 on the CPU"
    assert step.warnings == [f"CONV_2D: 1 mapped and 1 on the CPU; {predicted}"]


def test_internal_errors_without_end_are_given_up(parent, compiler, tmp_path):
    calls = compiler({"says": INTERNAL, "code": 1})
    with pytest.raises(GateFailed, match="refuses it: internal compiler error; nothing was written"):
        export(parent, "edgetpu", tmp_path / "new_edgetpu.tflite")
    assert len(calls()) == 3


def test_an_operator_that_was_not_predicted_is_told(parent, compiler, tmp_path):
    compiler(
        {
            "says": success(("CONV_2D", 2, edgetpu_log.MAPPED), ("QUANTIZE", 1, edgetpu_log.MAPPED)),
            "makes": "good.tflite",
        }
    )
    step = made_step(export(parent, "edgetpu", tmp_path / "new_edgetpu.tflite"))
    assert step.extra["outcome"]["CONV_2D"]["agrees"] is True
    assert step.warnings == ["QUANTIZE: 1 mapped and 0 on the CPU; predicted were 0 mapped, 0 uncertain, 0 on the CPU"]


def test_a_compiler_that_never_ends_is_ended(parent, compiler, tmp_path):
    compiler({"says": HEADER, "sleeps": 60})
    began = time.monotonic()
    with pytest.raises(LfError, match=r"edgetpu_compiler had not finished after 1 s; nothing was written"):
        to_edgetpu.export(parent, tmp_path / "new_edgetpu.tflite", seconds=1)
    assert time.monotonic() - began < 10


def test_what_it_started_is_ended_too(tmp_path):
    said = tmp_path / "pid"
    program = f"sleep 60 & echo $! > {said}; wait"
    with pytest.raises(LfError, match="had not finished"):
        to_edgetpu.run(["/bin/sh", "-c", program], tmp_path, 0.5)
    state = Path(f"/proc/{said.read_text().strip()}/stat")
    deadline = time.monotonic() + 5
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_compiler_that_does_not_start_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="cannot be started"):
        to_edgetpu.run([str(tmp_path / "absent")], tmp_path, 1)


def changed(**what):
    """A compiled file with a changed first output."""
    model = compiled("wren")
    tensor = model.subgraphs[0].tensors[1]
    for name, value in what.items():
        setattr(tensor if hasattr(tensor, name) else tensor.quantization, name, value)
    return tflite.write(model)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (changed(name="StatefulPartitionedCall:0"), r"its output \w+ is not there, expected"),
        (changed(scale=[0.5]), r"its output \w+ is .*0.5.*, expected"),
        (changed(zeroPoint=[99]), r"its output \w+ is .*99.*, expected"),
        (changed(type=3), r"its output \w+ is .*UINT8.*, expected"),
        (tflite.write(heads("wren")[0]), "its file has no edgetpu-custom-op"),
        (b"", "its file has no edgetpu-custom-op"),
        (b"not a model", "its file has no edgetpu-custom-op"),
    ],
)
def test_a_result_that_is_another_network_is_refused(parent, compiler, tmp_path, data, text):
    compiler({"says": ALL, "makes": "bad.tflite"}, bad=data)
    with pytest.raises(GateFailed, match=text):
        export(parent, "edgetpu", tmp_path / "new_edgetpu.tflite")
    assert not (tmp_path / "new_edgetpu.tflite").exists()


def test_outputs_may_change_places(parent, compiler, tmp_path):
    model = compiled("wren")
    model.subgraphs[0].outputs = model.subgraphs[0].outputs[::-1]
    compiler({"says": ALL, "makes": "turned.tflite"}, turned=tflite.write(model))
    assert export(parent, "edgetpu", tmp_path / "new_edgetpu.tflite").path.exists()


def test_what_it_starts_from_is_checked(tmp_path, tiny):
    with pytest.raises(
        UsageError, match=r"starts from an int8 .tflite file; type: `quantize\(MODEL\.onnx, writer=tflite"
    ):
        export(tiny(), "edgetpu", tmp_path / "new_edgetpu.tflite")
    ready = save(tmp_path / "m.tflite", heads("wren")[0], "wren")
    with pytest.raises(UsageError, match=r"`size`, `images`: the .tflite file settles all of that; type: `export\("):
        export(ready, "edgetpu", tmp_path / "new_edgetpu.tflite", size=(240, 320), images=tmp_path)
    done = save(tmp_path / "m_edgetpu.tflite", compiled("wren"), "wren")
    with pytest.raises(UsageError, match="is compiled for the Edge TPU already"):
        export(done, "edgetpu", tmp_path / "new_edgetpu.tflite")


def test_the_commands_are_there(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lf", "check", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "Predict which operators an accelerator runs" in capsys.readouterr().out


@given(st.text() | st.lists(st.sampled_from((ALL + REJECTED + UNRESOLVED).splitlines()), max_size=30).map("\n".join))
def test_any_output_can_be_read(text):
    log = edgetpu_log.parse(text)
    assert log.succeeded or log.problem
    json.dumps(log.as_dict(), allow_nan=False)
