"""`lf data draw`: folders that other commands read."""

from __future__ import annotations

import numpy as np

from lf.data import open_dataset
from lf.data.drawn import procedural
from lf.data.images import read


def test_pictures_are_those_of_the_training_set(lf, tmp_path):
    code, text, _ = lf("data", "draw", str(tmp_path / "photos"), "--count", "2", "--size", "48x64")
    assert (code, text) == (0, f"{tmp_path / 'photos'}\n")
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["000.png", "001.png"]
    assert (read(tmp_path / "photos" / "001.png") == procedural.training_picture(1, (48, 64))).all()


def test_pairs_are_those_of_procedural(lf, tmp_path):
    assert lf("data", "draw", str(tmp_path / "pairs"), "--pairs", "--count", "2")[0] == 0
    written = {pair.sequence: pair for pair in open_dataset(str(tmp_path / "pairs"))}
    for drawn in open_dataset("procedural:2"):
        pair = written[drawn.sequence]
        np.testing.assert_array_equal(pair.second.load(), drawn.second.load())
        np.testing.assert_allclose(pair.homography / pair.homography[2, 2], drawn.homography / drawn.homography[2, 2])


def test_a_size_that_is_too_small_is_refused(lf, tmp_path):
    code, _, error = lf("data", "draw", str(tmp_path / "photos"), "--size", "9x9")
    assert code == 2
    assert "sides from 32 px" in error
    assert not (tmp_path / "photos").exists()
