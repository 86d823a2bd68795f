"""Gate results for continuous integration: GitHub annotations and JUnit XML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from lf.benchmarks.run.gate import Verdict
from lf.core import files


def on_github() -> bool:
    """Return whether this is a step of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def workflow_commands(verdicts: Sequence[Verdict], gates: Path) -> list[str]:
    """Return the annotations of GitHub Actions: an error for each failed gate, a warning for each undecided gate.

    Args:
        verdicts: of all gates.
        gates: the gates file; annotations point to it.
    """
    return [_annotation(verdict, gates) for verdict in verdicts if not verdict.passed]


def _annotation(verdict: Verdict, gates: Path) -> str:
    level = "warning" if verdict.bound is None else "error"
    title = f"{verdict.gate.metric} of {verdict.run}"
    return f"::{level} file={_property(str(gates))},title={_property(title)}::{_data(said(verdict))}"


def said(verdict: Verdict) -> str:
    """Return one sentence about a gate."""
    change = f"{verdict.reference:.4f} -> {verdict.value:.4f}, drop {verdict.drop:+.4f} over {verdict.pairs} pairs"
    bound = "too few pairs for a bound" if verdict.bound is None else f"bound {verdict.bound:+.4f}"
    lost = f", undefined on {verdict.lost:.0%} more of the pairs" if verdict.lost > 0 else ""
    return f"{change}, {bound}, limit {verdict.limit:.4f}{lost}: {verdict.answer}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def junit(verdicts: Sequence[Verdict], path: Path) -> Path:
    """Write the gates as a JUnit test suite: one test case for each gate and run; undecided ones fail, too."""
    failed = sum(not verdict.passed for verdict in verdicts)
    counts = {"tests": str(len(verdicts)), "failures": str(failed), "errors": "0"}
    suite = ElementTree.Element("testsuite", {"name": "lf compare", **counts})
    for verdict in verdicts:
        about = {"classname": verdict.run, "name": f"{verdict.gate.metric} drops by at most {verdict.limit:g}"}
        case = ElementTree.SubElement(suite, "testcase", about)
        if verdict.passed:
            ElementTree.SubElement(case, "system-out").text = said(verdict)
        else:
            ElementTree.SubElement(case, "failure", {"type": verdict.answer, "message": said(verdict)})
    return files.write_bytes(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))
