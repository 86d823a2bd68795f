"""The notebook runs from its first cell to its last, and holds no outputs."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebooks" / "quickstart.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_holds_no_outputs():
    assert CELLS
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    """The cells use no magics of Jupyter, so Python runs them; a kernel would need 30 packages."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    shown = []
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()) or plt.close("all"))
    names = {"__name__": "__main__"}
    for number, cell in enumerate(CELLS, 1):
        exec(compile("".join(cell["source"]), f"quickstart.ipynb, code cell {number}", "exec"), names)
    assert len(shown) == 3
    said = capsys.readouterr().out
    assert "agree with one homography" in said
    assert "repeatability " in said
