"""The migration page and the command agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from lf.cli import renamed

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "migration.md").read_text()


@pytest.mark.parametrize(("place", "typed"), renamed.OPTIONS.items())
def test_every_renamed_option_is_on_the_page(place, typed):
    assert f"| `lf {' '.join(place)}` | `{typed}` |" in PAGE
