"""Keypoints and tracks of moving images: colours stay what they are, points are followed, ends are clear."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
import tflite_files as made
from typer.testing import CliRunner

from lf import cli
from lf.benchmarks.report import match_pictures
from lf.core import BadInput, Features, SessionInfo, Unavailable, UsageError
from lf.data import frames, images
from lf.data.drawn import procedural
from lf.studies import live

SIZE = (96, 128)
RED, BLUE = (230, 20, 30), (25, 40, 220)


class Finder:
    """An extractor that records its inputs and returns given points; the n-th point always has the same descriptor."""

    def __init__(self, points=lambda index: [[60, 50], [20, 30]]):
        self.points, self.seen, self.info = points, [], SessionInfo("fake", "0", "fake", 1)

    def __call__(self, frame):
        self.seen.append(frame)
        points = np.reshape(np.asarray(self.points(len(self.seen) - 1), np.float32), (-1, 2))
        looks = np.eye(16, dtype=np.float32)[: len(points)]
        return Features(points, np.linspace(1, 0.5, len(points)), looks, (frame.shape[1], frame.shape[0]))


def halves(shift=0):
    """Left red, right blue; uint8 RGB."""
    frame = np.empty((*SIZE, 3), np.uint8)
    frame[:, : 64 + shift], frame[:, 64 + shift :] = RED, BLUE
    return frame


@pytest.fixture
def clip(tmp_path):
    """A video of six frames, written by OpenCV itself."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, SIZE[::-1])
    for index in range(6):
        writer.write(cv2.cvtColor(halves(4 * index), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture
def album(tmp_path):
    """A folder of four drawn images that move to the right by 3 px each."""
    folder = tmp_path / "album"
    folder.mkdir()
    wide = procedural.held_out_picture(1, (96, 160))
    for index in range(4):
        view = wide[:, 20 - 3 * index :][:, :128]
        cv2.imwrite(str(folder / f"{index}.png"), cv2.cvtColor(view, cv2.COLOR_RGB2BGR))
    return folder


@pytest.fixture
def model(tmp_path):
    return made.save(tmp_path / "wren.tflite", made.heads("wren", SIZE)[0], "wren", SIZE)


def close(pixel, colour):
    return np.abs(pixel.astype(int) - colour).max() < 25  # a JPEG with halved colours


# --- colours


def test_the_network_sees_rgb_and_the_video_keeps_its_colours(tmp_path, clip):
    finder, out = Finder(), tmp_path / "out" / "seen.avi"
    seen = live.run(frames.video(clip), finder, out)
    assert len(finder.seen) == len(seen.keypoints) == 6
    for frame in finder.seen:
        assert (frame.shape, frame.dtype) == ((*SIZE, 3), np.uint8)
        assert close(frame[80, 10], RED)
        assert close(frame[80, 120], BLUE)
    capture = cv2.VideoCapture(str(out))
    kept = []
    while (read := capture.read())[0]:
        kept.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    assert len(kept) == 6
    assert capture.get(cv2.CAP_PROP_FPS) == 12
    assert all(close(frame[80, 10], RED) and close(frame[80, 120], BLUE) for frame in kept)


def test_pictures_keep_their_colours(tmp_path, clip):
    live.run(frames.video(clip), Finder(), tmp_path / "out", limit=2)
    found = images.list_images(tmp_path / "out")
    assert [path.name for path in found] == ["000000.png", "000001.png"]
    assert all(close(images.read(path)[80, 10], RED) and close(images.read(path)[80, 120], BLUE) for path in found)


def test_a_folder_is_seen_in_rgb_and_in_order(tmp_path):
    for name, colour in {"b": BLUE, "a": RED}.items():
        match_pictures.save(tmp_path / "in" / f"{name}.png", np.full((*SIZE, 3), colour, np.uint8))
    finder, source = Finder(), frames.folder(tmp_path / "in")
    assert (source.count, source.endless) == (2, False)
    live.run(source, finder, tmp_path / "out")
    assert [tuple(frame[5, 5]) for frame in finder.seen] == [RED, BLUE]


# --- tracks


def features(points, looks):
    eye = np.eye(16, dtype=np.float32)
    return Features(np.reshape(points, (-1, 2)), np.ones(len(points)), eye[looks], (128, 96))


def test_points_are_followed_by_what_they_look_like():
    tracks = live.Tracks()
    tracks.follow(features([[10, 10], [50, 50]], [0, 1]))
    trails = tracks.follow(features([[53, 50], [80, 20], [12, 11]], [1, 2, 0]))
    assert [[point.tolist() for point in trail] for trail in trails] == [
        [[50, 50], [53, 50]],
        [[80, 20]],
        [[10, 10], [12, 11]],
    ]


def test_a_match_that_jumps_is_no_motion():
    tracks = live.Tracks()
    tracks.follow(features([[10, 10]], [0]))
    far = 160 * live.REACH  # of the diagonal of 128x96
    assert len(tracks.follow(features([[10 + far - 1, 10]], [0]))[0]) == 2
    assert len(tracks.follow(features([[10 + far - 1, 10 + far + 1]], [0]))[0]) == 1


def test_trails_end_somewhere_and_empty_frames_cut_them():
    tracks = live.Tracks()
    for x in range(live.TRAIL + 5):
        (trail,) = tracks.follow(features([[x, 5]], [0]))
    assert [point[0] for point in trail] == [*range(5, live.TRAIL + 5)]
    assert tracks.follow(features([], [])) == []
    assert len(tracks.follow(features([[30, 5]], [0]))[0]) == 1


def test_what_is_followed_is_blue_with_a_line_behind_it():
    frame = np.full((*SIZE, 3), 90, np.uint8)
    trails = [[np.array([40.0, 50.0]), np.array([60.0, 50.0])], [np.array([100.0, 70.0])]]
    drawn = live.draw(frame, trails, "")
    assert tuple(drawn[50, 60]) == match_pictures.SKY
    assert tuple(drawn[70, 100]) == match_pictures.FAINT
    assert close(drawn[50, 45], match_pictures.ORANGE)  # its edges are smoothed
    assert (frame == 90).all()


def test_a_run_counts_what_it_followed(tmp_path, clip):
    finder = Finder(lambda index: [[60 + index, 50], [20, 30]][: 1 + index % 2])
    seen = live.run(frames.video(clip), finder, tmp_path / "out")
    assert seen.keypoints == [1, 2, 1, 2, 1, 2]
    assert seen.followed == [0, 1, 1, 1, 1, 1]
    assert str(seen).startswith("6 frames, ")
    assert str(seen).endswith("ms each to extract (median), 2 keypoints, 1 of them followed")


def test_the_best_points_are_shown(tmp_path, clip):
    assert live.run(frames.video(clip), Finder(), tmp_path / "out", top_k=1, limit=1).keypoints == [1]


# --- ends


def test_a_video_is_written_whole_or_not_at_all(tmp_path, clip):
    def fails(index):
        if index == 3:
            raise BadInput("broken")
        return [[1, 1]]

    out = tmp_path / "out" / "seen.avi"
    with pytest.raises(BadInput, match="broken"):
        live.run(frames.video(clip), Finder(fails), out)
    assert list(out.parent.iterdir()) == []


def test_an_interrupted_file_leaves_no_video_an_interrupted_camera_keeps_it(tmp_path, clip):
    def interrupted(index):
        if index == 3:
            raise KeyboardInterrupt
        return [[1, 1]]

    out = tmp_path / "out" / "seen.avi"
    with pytest.raises(KeyboardInterrupt):
        live.run(frames.video(clip), Finder(interrupted), out)
    assert not out.exists()
    source = frames.video(clip)
    endless = frames.Source("camera 0", source.frames, endless=True)
    assert len(live.run(endless, Finder(interrupted), out).keypoints) == 3
    assert cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, r"clip\.avi: no such file; expected a video"),
        (b"", "no video that this OpenCV"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(200), "no video that this OpenCV"),
        ("head", "no video that this OpenCV|without a frame"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, clip, content, text, capfd):
    data = clip.read_bytes()
    clip.unlink()
    if content is not None:
        clip.write_bytes(data[:2500] if content == "head" else content)
    with pytest.raises(BadInput, match=text) as caught:
        live.run(frames.video(clip), Finder(), tmp_path / "out")
    assert str(clip) in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_folder_without_images_and_a_damaged_one_are_named(tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        frames.folder(tmp_path / "none")
    (tmp_path / "x.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(BadInput, match=r"x\.png: 16 bytes that do not decode"):
        live.run(frames.folder(tmp_path), Finder(), tmp_path / "out")


def test_a_camera_that_is_not_there_is_named(capfd):
    with pytest.raises(Unavailable, match=r"camera 97 cannot be opened: none is there, .* ls /dev/video"):
        frames.camera(97)
    assert capfd.readouterr().err == ""


class Capture:
    """A camera of three frames, in OpenCV's order of colours."""

    def __init__(self):
        self.left, self.released = 3, False

    def isOpened(self):
        return True

    def get(self, _):
        return 0.0

    def read(self):
        self.left -= 1
        return (True, cv2.cvtColor(halves(), cv2.COLOR_RGB2BGR)) if self.left >= 0 else (False, None)

    def release(self):
        self.released = True


def test_a_camera_that_stops_is_named_and_let_go_of(tmp_path, monkeypatch):
    capture, finder = Capture(), Finder()
    monkeypatch.setattr(frames, "_open", lambda what: capture)
    with pytest.raises(Unavailable, match="camera 0 stopped after 3 frames; is it still plugged in"):
        live.run(frames.camera(0), finder, tmp_path / "out" / "seen.avi")
    assert capture.released
    assert not (tmp_path / "out" / "seen.avi").exists()
    assert all(tuple(frame[80, 10]) == RED for frame in finder.seen)


def test_a_camera_ends_after_so_many_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "_open", lambda what: Capture())
    assert len(live.run(frames.camera(0), Finder(), tmp_path / "seen.avi", limit=2).keypoints) == 2
    assert cv2.VideoCapture(str(tmp_path / "seen.avi")).get(cv2.CAP_PROP_FPS) == frames.RATE


def test_other_places_are_refused(tmp_path, clip):
    with pytest.raises(UsageError, match=r"seen\.gif: expected a folder, or a video: \.avi, \.mp4"):
        live.run(frames.video(clip), Finder(), tmp_path / "seen.gif")
    for name, height in (("a", 96), ("b", 64)):
        match_pictures.save(tmp_path / "in" / f"{name}.png", np.zeros((height, 128, 3), np.uint8))
    with pytest.raises(UsageError, match="a video has frames of one size; give a folder"):
        live.run(frames.folder(tmp_path / "in"), Finder(), tmp_path / "seen.avi")
    assert not (tmp_path / "seen.avi").exists()
    with pytest.raises(UsageError, match="its name is not UTF-8, in which OpenCV writes no video; choose another"):
        live.run(frames.video(clip), Finder(), tmp_path / os.fsdecode(b"\xff.avi"))
    bad = clip.rename(tmp_path / os.fsdecode(b"\xff.avi"))
    with pytest.raises(BadInput, match="its name is not UTF-8, which OpenCV cannot open as a video; rename it"):
        frames.video(bad)


# --- the command


def lf(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


@pytest.mark.parametrize("kind", ["images", "video"])
def test_the_command_follows_real_points(tmp_path, album, clip, model, kind):
    source, out = (album if kind == "images" else clip), tmp_path / "seen.avi"
    done = lf("live", source, "--model", model.path, "--backend", "tflite", "--out", out)
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    assert "wren.tflite in litert " in done.stderr
    assert "XNNPACK: " in done.stderr
    assert cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FRAME_COUNT) == (4 if kind == "images" else 6)


def test_the_demo_runs_the_main_job(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr("lf.studies.demo.demo", lambda out, threads, progress: called.append((out, threads)))
    assert lf("demo", "--out", tmp_path, "--threads", 2).exit_code == 0
    assert called == [(tmp_path, 2)]
