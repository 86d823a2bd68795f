"""`lf extract` on many images: workers, shards and pools do not change results; interrupted runs resume."""

from __future__ import annotations

import contextlib
import json
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lf.cli import extract as cli_extract
from lf.core import BadInput, Features, LfError, Unavailable, UsageError, fingerprint
from lf.data.layouts import LAYOUTS, colmap, h5
from lf.extraction import pools, store, stream
from lf.extraction.extractor import Extractor
from lf.extraction.variant import Variant
from lf.models.resolve import resolve
from lf.runtimes import BACKENDS

ROWS = ("lf", "hloc", "colmap")  # a file for each image, and one for all, twice
BROKEN = "04.png"


@pytest.fixture
def photos(tmp_path):
    """Ten files in two folders; the fifth is no image."""
    rng, folder = np.random.default_rng(0), tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for index in range(10):
        name = f"{index:02}.png" if index < 7 else f"deep/{index:02}.png"
        side = 40 + 8 * (index % 3)
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (48, side), dtype=np.uint8))
    (folder / BROKEN).write_bytes(b"hello")
    return folder


@pytest.fixture
def model(tiny):
    """A file, and what opens it."""
    artifact = tiny("wren.onnx")
    return SimpleNamespace(path=str(artifact.path), open=partial(Variant(artifact, "ort-cpu").open, 1))


@pytest.fixture(params=ROWS)
def layout(request):
    """Each kind of layout; one of them needs h5py."""
    if request.param == "hloc":
        pytest.importorskip("h5py")
    return request.param


def run(model, photos, out, layout, shard=store.WHOLE, **options):
    found = store.share(store.find([photos]), shard)
    return store.extract_images(model.open(), found, out, layout, 30, shard=shard, **options)


def content(out):
    """Every file below a folder, but for those of shards, byte by byte."""
    kept = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    return {name: bytes_of(path) for name, path in kept.items() if not name.startswith("shards/")}


def bytes_of(path):
    """Return the content of a file; for a database, its dump, because its bytes count writes."""
    if path.suffix != ".db":
        return path.read_bytes()
    connection = sqlite3.connect(path)
    try:
        return "\n".join(connection.iterdump()).encode()
    finally:
        connection.close()


class Counted:
    """A session that counts, and fails from one image on."""

    def __init__(self, session, last=1 << 30, error=None):
        self.info, self._session, self.runs, self._last = session.info, session, 0, last
        self._error = error or LfError("the network is broken")

    def run(self, image):
        self.runs += 1
        if self.runs > self._last:
            raise self._error
        return self._session.run(image)


# --- what is written


def test_workers_change_nothing_but_the_time(model, photos, tmp_path, layout):
    one = run(model, photos, tmp_path / "one", layout)
    assert (one.written, one.kept, [*one.failed]) == (9, 0, [BROKEN])
    assert len(LAYOUTS[layout].open(tmp_path / "one").read("00.png", (40, 48))) > 9
    many = run(model, photos, tmp_path / "many", layout, workers=3)
    assert many == one
    assert content(tmp_path / "many") == content(tmp_path / "one")


def test_the_union_of_shards_is_one_run(model, photos, tmp_path, layout):
    whole, out = run(model, photos, tmp_path / "one", layout), tmp_path / "out"
    parts = [run(model, photos, out, layout, (index, 3), workers=index) for index in (2, 1)]
    parts.append(run(model, photos, out, layout, (0, 3)))
    assert sum(part.written for part in parts) == whole.written
    assert {name: why for part in parts for name, why in part.failed.items()} == whole.failed
    if suffix := LAYOUTS[layout].single:
        assert sorted(path.name for path in (out / "shards").iterdir()) == [f"{i}-of-3{suffix}" for i in range(3)]
        extractor = model.open()
        extractor.session = Counted(extractor.session)
        assert store.extract_images(extractor, store.find([photos]), out, layout, 30) == whole
        assert extractor.session.runs == 0, "the run of all puts together what the shards have"
    assert content(out) == content(tmp_path / "one")
    assert run(model, photos, out, layout, (1, 3)).written == 0, "what is there is not made again"
    assert content(out) == content(tmp_path / "one")


def test_a_shard_that_was_not_run_is_made_up_for(model, photos, tmp_path):
    pytest.importorskip("h5py")
    run(model, photos, tmp_path / "one", "hloc")
    run(model, photos, tmp_path / "out", "hloc", (1, 3))
    assert run(model, photos, tmp_path / "out", "hloc", workers=2).written == 9
    assert content(tmp_path / "out") == content(tmp_path / "one")


def test_a_shard_that_is_not_done_is_named(model, photos, tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "out" / "shards").mkdir(parents=True)
    (tmp_path / "out" / "shards" / "1-of-3.h5.part").write_bytes(b"")
    text = r"1-of-3.h5.part: this shard is not done; run it again with `shard=1/3`, or delete it"
    with pytest.raises(UsageError, match=text):
        run(model, photos, tmp_path / "out", "hloc")


def test_two_runs_do_not_write_one_file(model, photos, tmp_path):
    h5py = pytest.importorskip("h5py")
    part = tmp_path / "out" / "shards" / "0-of-2.h5.part"
    part.parent.mkdir(parents=True)
    with h5py.File(part, "w") as file:
        file["00.png/keypoints"] = np.zeros((1, 2))
    hold = f"import h5py\nfile = h5py.File({str(part)!r}, 'a')\nprint('held', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(
            UsageError, match="another run is writing it; wait until it ends, then type the command again"
        ):
            run(model, photos, tmp_path / "out", "hloc", (0, 2))
        other.communicate(b"\n")
    with h5py.File(part, "r") as file:
        assert "00.png" in file, "what the other wrote is still there"


def test_features_of_other_code_are_not_gone_on_with(model, photos, tmp_path, layout, monkeypatch):
    run(model, photos, tmp_path / "out", layout)
    before = content(tmp_path / "out")
    code = fingerprint.fingerprint(store.__name__)
    monkeypatch.setattr(fingerprint, "fingerprint", lambda *names: "of other code")
    with pytest.raises(UsageError) as caught:
        run(model, photos, tmp_path / "out", layout)
    assert str(caught.value) == (
        f"{tmp_path / 'out'}: was made with other settings (code of lf: was {code}, now of other code); "
        f"choose another `out`, or delete its features: rm -r {tmp_path / 'out'}"
    )
    assert content(tmp_path / "out") == before


def test_an_image_whose_name_begins_as_another_is_found(tmp_path):
    pytest.importorskip("h5py")
    points = [Features(np.full((1, 2), index), np.ones(1), np.ones((1, 4)), (9, 9)) for index in range(2)]
    with LAYOUTS["hloc"].open(tmp_path) as kept:
        for name, features in zip(("a.png", "a.png.jpg"), points, strict=True):
            kept.write(name, features)
    assert h5.Hdf5(tmp_path).read("a.png", (0, 0)).keypoints.tolist() == [[0, 0]]
    assert h5.Hdf5(tmp_path).read("a.png.jpg", (0, 0)).keypoints.tolist() == [[1, 1]]
    with pytest.raises(BadInput, match=r"a.png, a.png.jpg: which one\?"):
        h5.Hdf5(tmp_path).read("a", (0, 0))


# --- what stops it


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_broken_network_left_is_gone_on_with(model, photos, tmp_path, layout, workers, monkeypatch):
    run(model, photos, tmp_path / "one", layout)
    out, extractor = tmp_path / "out", model.open()
    extractor.session = Counted(extractor.session, last=5)
    monkeypatch.setitem(
        BACKENDS, "ort-cpu", replace(BACKENDS["ort-cpu"], one_session=True)
    )  # one session, so that it is the sixth image
    with pytest.raises(LfError, match="the network is broken"):
        store.extract_images(extractor, store.find([photos]), out, layout, 30, workers=workers)
    monkeypatch.undo()
    done = run(model, photos, out, layout, workers=workers)
    assert (done.written, done.kept, [*done.failed]) == (9 - done.kept, done.kept, [BROKEN])
    assert 0 < done.kept <= 5
    assert content(out) == content(tmp_path / "one")


KILLED = """
import os, signal, sys
from pathlib import Path
from lf.data.layouts.{module} import {store}
from lf.cli import main
write, seen = {store}.write, []
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
def killed(self, name, features):
    if len(seen) == 3:
        os.kill(os.getpid(), {signal})
    write(self, name, features)
    seen.append(name)
{store}.write = killed
sys.argv = ["lf", "extract", {model!r}, {photos!r}, "--out", {out!r}, "--layout", {layout!r}, "--top-k", "30",
            "--backend", "ort-cpu", "--workers", "2"]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("signal", "code"), [(9, -9), (2, 130)], ids=["killed", "Ctrl-C"])
def test_what_a_killed_process_left_is_gone_on_with(model, photos, tmp_path, layout, signal, code):
    run(model, photos, tmp_path / "one", layout)
    module, kind = {"hloc": ("h5", "Hdf5"), "colmap": ("colmap", "Colmap")}.get(layout, ("images", "Folder"))
    names = {"module": module, "store": kind, "signal": signal, "layout": layout}
    paths = {"model": model.path, "photos": str(photos), "out": str(tmp_path / "out")}
    script = KILLED.format(**names, **paths)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, "")
    if code == 130:
        assert done.stderr.startswith("lf: interrupted; nothing half-written is left, the same command resumes")
    if file := {"hloc": h5.NAME, "colmap": colmap.NAME}.get(layout):
        assert (tmp_path / "out" / f"{file}.part").is_file()
        assert not (tmp_path / "out" / file).exists()
    again = run(model, photos, tmp_path / "out", layout, workers=2)
    assert (again.written, again.kept) == (6, 3)
    assert content(tmp_path / "out") == content(tmp_path / "one")


@pytest.mark.parametrize("error", [Unavailable("no such provider"), BadInput("the engine refuses the file")])
def test_an_engine_that_cannot_be_opened_again_ends_the_run(model, photos, tmp_path, error, monkeypatch):
    def fail(self):
        raise error

    monkeypatch.setattr(Extractor, "again", fail)
    with pytest.raises(type(error), match=str(error)):
        run(model, photos, tmp_path / "out", "lf", workers=2)
    assert not workers_alive()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_engine_that_stops_on_the_way_is_no_fault_of_the_images(model, photos, tmp_path, workers, monkeypatch):
    monkeypatch.setitem(BACKENDS, "ort-cpu", replace(BACKENDS["ort-cpu"], one_session=True))
    extractor = model.open()
    extractor.session = Counted(extractor.session, last=3, error=BadInput("CUDA error 2: out of memory"))
    with pytest.raises(Unavailable, match=r"the engine has stopped; .* type the same command again: CUDA error 2"):
        store.extract_images(extractor, store.find([photos]), tmp_path / "out", "lf", 30, workers=workers)
    assert len(content(tmp_path / "out")) <= 4  # and what made them


def test_an_image_that_the_engine_cannot_take_is_passed_over(model, photos, tmp_path):
    class NoWide(Counted):
        def run(self, image):
            if image.shape[-1] == 56:
                raise BadInput("cannot run it on that")
            return super().run(image)

    extractor = model.open()
    extractor.session = NoWide(extractor.session)
    done = store.extract_images(extractor, store.find([photos]), tmp_path / "out", "lf", 30)
    assert (done.written, len(done.failed)) == (6, 4)


# --- the stream


def workers_alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("lf-worker")]


@pytest.fixture
def stub(monkeypatch):
    """Paths are numbers; `features` of one say which, after a while that is longest for the first."""

    def features(own, path, top_k):
        time.sleep(max(0.0, 0.05 - 0.01 * int(path.name)))
        if path.name == "3":
            raise BadInput("3 cannot be read")
        return Features(np.full((1, 2), int(path.name)), np.ones(1), np.ones((1, 1)), (1, 1))

    monkeypatch.setattr(stream, "features_of", features)
    return SimpleNamespace(again=lambda: SimpleNamespace())


def numbers(results):
    return [str(result) if isinstance(result, BadInput) else int(result.keypoints[0, 0]) for result in results]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_images(stub, workers):
    results = stream.stream(stub, map(Path, "01234567"), workers=workers)
    assert numbers(results) == [0, 1, 2, "3 cannot be read", 4, 5, 6, 7]


def test_no_more_images_are_begun_than_the_workers_can_hold(stub):
    pulled = []

    def paths():
        for index in range(100):
            pulled.append(index)
            yield Path(str(index + 4))

    with contextlib.closing(stream.stream(stub, paths(), workers=2)) as results:
        for taken in range(1, 8):
            next(results)
            assert len(pulled) <= taken - 1 + 2 * stream.AHEAD
        time.sleep(0.1)
        assert len(pulled) == 6 + 2 * stream.AHEAD
    assert len(pulled) == 6 + 2 * stream.AHEAD, "nothing is begun after it was closed"
    assert not workers_alive()


def test_opencv_is_left_as_it_was(stub):
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        with contextlib.closing(stream.stream(stub, map(Path, "456"), workers=2)) as results:
            next(results)
            assert cv2.getNumThreads() == 1
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_every_worker_has_a_session_of_its_own(tiny, tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (160, 240), dtype=np.uint8))
    points = Extractor(resolve("orb"), "opencv")
    first = Extractor(tiny("sp.onnx", "superpoint"), "ort-cpu", 1, points, threshold=0.5)
    other = first.again()
    assert (other.settings, other.session is first.session) == (first.settings, False)
    assert other.keypoints.session is not points.session
    ours, theirs = (stream.features_of(extractor, path, 7) for extractor in (first, other))
    assert len(ours) == len(theirs) == 7
    assert np.array_equal(ours.descriptors, theirs.descriptors)
    monkeypatch.setitem(BACKENDS, "ort-cpu", replace(BACKENDS["ort-cpu"], one_session=True))
    assert first.again() is first


# --- the command


def command(capsys, *words, **options):
    cli_extract.extract(*words, json=True, **options)
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_the_command_takes_workers_and_a_shard(model, photos, tmp_path, capsys):
    words = (model.path, [str(photos)], tmp_path / "out")
    done, said = command(capsys, *words, backend="ort-cpu", workers=2, shard="0/2", top_k=30)
    assert (done["written"], [*done["failed"]]) == (4, [BROKEN])
    assert said.endswith("lf: skipped 1 of 5 images\n")
    done, _ = command(capsys, *words, backend="ort-cpu", shard="1/2", top_k=30)
    assert (done["written"], done["failed"]) == (5, {})
    done, _ = command(capsys, *words, backend="ort-cpu", shard="11/12", top_k=30)
    assert (done["written"], done["kept"]) == (0, 0), "more shards than images"
    run(model, photos, tmp_path / "one", "lf")
    assert content(tmp_path / "out") == content(tmp_path / "one")


@pytest.mark.parametrize(
    ("shard", "text"),
    [
        *(
            (text, f"--shard {text}: expected I/N, for example 0/2")
            for text in ("2", "a/b", "1/", "/2", "-1/2", "0/1/2")
        ),
        ("2/2", "`shard=2/2`: expected I/N with I from 0 to N - 1, for example 0/2"),
        ("0/0", "`shard=0/0`: expected I/N with I from 0 to N - 1, for example 0/1"),
    ],
)
def test_what_is_no_shard_is_refused(model, photos, tmp_path, shard, text):
    with pytest.raises(UsageError) as refused:
        cli_extract.extract(model.path, [str(photos)], tmp_path / "out", shard=shard)
    assert str(refused.value) == text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pool": "rays"}, "unknown pool 'rays'; did you mean 'ray'?"),
        ({"pool": "ray", "shard": "0/2"}, "`pool` shares the images out by itself; leave out `shard`"),
        ({"pool": "ray", "layout": "superpoint"}, "numbers the pairs of a dataset in one run; leave out `shard` and"),
        ({"shard": "0/2", "layout": "superpoint"}, "numbers the pairs of a dataset in one run; leave out `shard` and"),
    ],
)
def test_what_does_not_go_together_is_refused(model, photos, tmp_path, options, text):
    with pytest.raises(UsageError, match=text):
        cli_extract.extract(model.path, [str(photos)], tmp_path / "out", **options)


# --- pools


class Inside:
    """Stand-in for the parts of Ray that `lf.extraction.pools` uses: arguments are pickled, results shuffled."""

    def __init__(self, cores=(1, 1), refusal=None):
        self.exceptions = SimpleNamespace(RayError=KeyError)
        context = SimpleNamespace(get_current=lambda: SimpleNamespace())
        self.data = SimpleNamespace(
            DataContext=context, ActorPoolStrategy=lambda **sizes: sizes, from_items=lambda rows, **_: self._rows(rows)
        )
        self.cores, self.refusal, self.calls, self.sizes = cores, refusal, [], {}

    def is_initialized(self):
        return False

    def init(self, **options):
        self.calls.append("init")
        if self.refusal:
            raise self.refusal

    def shutdown(self):
        self.calls.append("shutdown")

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": float(cores)}} for cores in self.cores]

    def _rows(self, rows):
        return SimpleNamespace(map=partial(self._map, rows))

    def _map(self, rows, actor, fn_constructor_args, num_cpus, compute):
        self.sizes = {**compute, "cpus": num_cpus}
        actors = [actor(*pickle.loads(pickle.dumps(fn_constructor_args))) for _ in range(compute["max_size"])]
        mixed = [actors[index % len(actors)](row) for index, row in [*enumerate(rows)][::-1]]
        return SimpleNamespace(iter_rows=lambda: iter(mixed))


@pytest.fixture
def inside(monkeypatch):
    """Make `import ray` find this one."""

    def put(**options):
        ray = Inside(**options)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.data", ray.data)
        monkeypatch.setitem(sys.modules, "ray.exceptions", ray.exceptions)
        return ray

    return put


def pooled(model, photos, out, layout, **options):
    seen = []
    found = store.find([photos])
    tally = pools.on_ray(model.open, found, out, layout, 30, lambda *step: seen.append(step), **options)
    return tally, seen


def test_a_pool_is_one_run(model, photos, tmp_path, layout, inside, monkeypatch):
    monkeypatch.setattr(pools, "SHARDS", 4)
    ray, whole = inside(cores=(3, 5)), run(model, photos, tmp_path / "one", layout)
    tally, seen = pooled(model, photos, tmp_path / "out", layout, cpus=1, workers=2)
    assert (tally, ray.calls) == (whole, ["init", "shutdown"])
    assert ray.sizes == {"min_size": 1, "max_size": 3, "cpus": 2}, "an actor on the first machine, two on the second"
    assert [step[:2] for step in seen][-1] == (10, 10)
    assert content(tmp_path / "out") == content(tmp_path / "one")
    again, _ = pooled(model, photos, tmp_path / "out", layout)
    assert (again.written, again.kept, again.failed) == (0, 9, whole.failed)


def test_the_command_spreads_over_a_pool(model, photos, tmp_path, capsys, inside, monkeypatch):
    inside()
    monkeypatch.chdir(tmp_path)
    words = (Path(model.path).name, ["photos"], Path("out"))
    done, said = command(capsys, *words, backend="ort-cpu", pool="ray", top_k=30)
    assert (done["written"], said.count("\n")) == (9, 2)
    run(model, photos, tmp_path / "one", "lf")
    assert content(tmp_path / "out") == content(tmp_path / "one")


def test_what_goes_wrong_in_an_actor_is_said_as_if_it_were_here(model, photos, tmp_path, inside):
    ray = inside()
    run(model, photos, tmp_path / "out", "lf")
    with pytest.raises(UsageError, match=r"out: was made with other settings \(top_k: was 30, now 5\); "):
        pools.on_ray(model.open, store.find([photos]), tmp_path / "out", "lf", 5, lambda *_: None)
    assert ray.calls == ["init", "shutdown"]
    missing = partial(Variant(resolve(model.path), "ort-cuda").open, 1)
    with pytest.raises(Unavailable, match="CUDAExecutionProvider is not in this onnxruntime"):
        pools.on_ray(missing, store.find([photos]), tmp_path / "new", "lf", 5, lambda *_: None)


@pytest.mark.parametrize(
    ("options", "workers", "kind", "text"),
    [
        ({"cores": (1, 3)}, 4, Unavailable, "no machine of the pool has 4 cores; they have 1, 3: ask for fewer"),
        ({"refusal": ConnectionError("a\nno route")}, 1, Unavailable, r"no Ray cluster is there \(no route\); see"),
        ({"refusal": KeyError("x\ndied")}, 1, LfError, r"Ray failed \(.*died'\); the same command goes on"),
    ],
)
def test_a_pool_that_does_not_work_is_said(model, photos, tmp_path, inside, options, workers, kind, text, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    ray = inside(**options)
    with pytest.raises(kind, match=text):
        pooled(model, photos, tmp_path / "out", "lf", workers=workers)
    assert ray.calls == ["init", "shutdown"]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer_is_said_at_once(model, photos, tmp_path, inside, scheme, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"{scheme}127.0.0.1:{door.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        inside()
        assert pooled(model, photos, tmp_path / "out", "lf")[0].written == 9
    with pytest.raises(Unavailable, match=f"no Ray cluster answers at RAY_ADDRESS={address} .*; see: ray status"):
        pooled(model, photos, tmp_path / "out", "lf")


def test_without_ray_the_extra_is_named(model, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Unavailable, match=r'`pool=ray` needs the package ray; type: pip install "lf-keypoints\[ray\]"'):
        pooled(model, photos, tmp_path / "out", "lf")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_on_two_machines_is_one_run(model, photos, tmp_path, monkeypatch):
    pytest.importorskip("ray.data")
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(pools, "SHARDS", 4)
    whole = run(model, photos, tmp_path / "one", "hloc")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        for layout in ROWS:
            tally, seen = pooled(model, photos, tmp_path / layout, layout)
            assert (tally, seen[-1][:2]) == (whole, (10, 10))
        with pytest.raises(UsageError, match=r"was made with other settings \(top_k: was 30, now 5\)"):
            pools.on_ray(model.open, store.find([photos]), tmp_path / "lf", "lf", 5, lambda *_: None)
    finally:
        cluster.shutdown()
    assert content(tmp_path / "hloc") == content(tmp_path / "one")
    run(model, photos, tmp_path / "files", "lf")
    assert content(tmp_path / "lf") == content(tmp_path / "files")
