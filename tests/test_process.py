"""Environment of lf's process: no telemetry, a home folder if there is none, threads within the CPU quota."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lf import process, quota
from lf.benchmarks.run import results
from lf.core import BadInput, SessionInfo, Unavailable, files
from lf.data import open_dataset
from lf.extraction import store
from lf.runtimes import BACKENDS, open_session, ort
from lf.studies import doctor, extract, sweep_plan

NOBODY = """
import pwd, sys

def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = nobody  # as for a user without an entry in the passwd file
"""
needs_openvino = pytest.mark.skipif(not BACKENDS["openvino"].installed, reason="no openvino here")


def alone(source, folder, home=None, **more):
    """Run Python source in a fresh process in `folder`, with nothing of this one's environment."""
    env = {"PATH": os.environ["PATH"], **({"HOME": str(home)} if home else {}), **more}
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=120, cwd=folder, env=env
    )


def remarks(said):
    """Return the stderr of a command without lines of progress, which appear on a busy machine."""
    return [line for line in said.stderr.splitlines() if not re.match(r"\d+/\d+ \(|.*: working, ", line)]


def command(*words):
    """Source that runs a command."""
    return f"import sys\nsys.argv = {['lf', *map(str, words)]}\nfrom lf.cli import main\nmain()"


# --- telemetry


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_telemetry_is_off_whatever_the_environment_says(home):
    said = alone("import json, lf, os; print(json.dumps(dict(os.environ)))", home, ORT_DISABLE_TELEMETRY="0")
    assert json.loads(said.stdout).items() >= process.TELEMETRY_OFF.items()
    assert {"ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "WANDB_ERROR_REPORTING"} <= process.TELEMETRY_OFF.keys()


def test_onnx_runtime_leaves_nothing_in_the_home_folder(home, tiny):
    """ONNX Runtime's telemetry would store an identifier and events there; variables of CI would hide that."""
    words = ("bench", tiny().path, "--data", "procedural:1", "--repeats", 1)
    said = alone(command(*words), home.parent, home)
    assert (said.returncode, remarks(said)) == (0, [])
    assert not [*home.rglob("*")]


@needs_openvino
def test_openvino_is_imported_without_its_telemetry(home):
    source = "import lf, openvino, sys; print(*(name for name in sys.modules if 'telemetry' in name))"
    said = alone(source, home.parent, home)
    assert said.returncode == 0, said.stderr
    loaded = said.stdout.split()
    assert "openvino.tools.ovc.telemetry_stub" in loaded
    assert not [name for name in loaded if name.startswith("openvino_telemetry.")]
    assert not [*home.rglob("*")]


# --- no home folder


def test_a_user_without_a_home_folder_has_one_that_is_not_there(tmp_path):
    source = "import lf, os, pathlib; print(pathlib.Path.home(), os.path.expanduser('~'), os.environ['HOME'])"
    assert alone(NOBODY + source, tmp_path).stdout.split() == [process.NO_HOME] * 3


def test_matplotlib_tells_nothing_of_a_home_folder_that_is_not_there(tmp_path):
    pytest.importorskip("matplotlib")
    said = alone(NOBODY + "import lf, matplotlib.figure", tmp_path)
    assert (said.returncode, said.stderr) == (0, "")


def test_a_home_folder_stays_what_it_is(home):
    assert alone(NOBODY + "import lf, os; print(os.environ['HOME'])", home, home).stdout.split() == [str(home)]
    assert alone("import lf, os; print(os.environ.get('HOME'))", home).stdout.split() == ["None"]


@needs_openvino
@pytest.mark.parametrize(
    "words",
    [("bench", "FILE", "--backend", "openvino", "--data", "procedural:1", "--repeats", 0), ("doctor",)],
    ids=lambda words: words[0],
)
def test_commands_run_without_a_home_folder(tiny, tmp_path, words):
    model = tiny().path
    before = sorted(tmp_path.iterdir())
    said = alone(NOBODY + command(*(model if word == "FILE" else word for word in words)), tmp_path)
    assert (said.returncode, remarks(said)) == (0, [])
    assert "openvino" in said.stdout
    assert sorted(tmp_path.iterdir()) == before  # no folder that is called ~


@pytest.mark.parametrize(
    "open_it", [open_dataset, lambda text: sweep_plan.located(text, Path())], ids=["bench", "sweep"]
)
@pytest.mark.parametrize("text", ["warps:~nobody-of-this-name/photos", "hpatches:~nobody-of-this-name"])
def test_the_home_folder_of_nobody_is_bad_input(open_it, text):
    with pytest.raises(BadInput) as caught:
        open_it(text)
    where = text.partition(":")[2]
    assert str(caught.value) == f"{where}: there is no home folder ~nobody-of-this-name; give the whole path"


def test_the_home_folder_of_somebody_is_meant(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    assert files.expand("~/photos") == home / "photos"


# --- an engine that is installed and broken


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """The backend ort-cpu with a package that cannot be imported."""
    (tmp_path / "engine_without_its_library.py").write_text("raise OSError('libengine.so.7:\\ncannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(BACKENDS, "ort-cpu", replace(BACKENDS["ort-cpu"], package="engine_without_its_library"))


BROKEN = (
    "the package engine_without_its_library cannot be imported (libengine.so.7: cannot open); install it again: "
    'pip install --force-reinstall "lf-keypoints[ort]"'
)


def test_an_engine_that_cannot_be_imported_is_not_there(broken, tiny):
    with pytest.raises(Unavailable) as caught:
        open_session(tiny(), "ort-cpu")
    assert str(caught.value) == BROKEN


def test_doctor_outlives_an_engine_that_cannot_be_imported(broken):
    row = next(row for row in doctor.examine() if row["name"] == "ort-cpu")
    assert (row["ok"], row["detail"]) == (False, f"{BACKENDS['ort-cpu'].about}; {BROKEN}")


def test_a_package_that_cannot_be_imported_is_not_there_either(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: no such file', name='torch')")
    (tmp_path / "x.pth").write_bytes(b"x")
    said = alone(command("inspect", "x.pth"), tmp_path, tmp_path, PYTHONPATH=str(tmp_path))
    assert (said.returncode, said.stdout) == (4, "")
    assert said.stderr == (
        "lf: the package torch cannot be imported (libtorch.so: no such file); lf doctor says what is wrong\n"
    )


# --- the CPU quota

V2 = "29 23 0:26 {shown} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 31 0:30 {shown} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
OTHERS = (
    "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """(group, mount, limits) -> root of a file system with these; the machine has 64 cores."""
    monkeypatch.setattr(quota, "affinity", lambda: 64)

    def make(group, mount, limits, shown="/"):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(group + "\n")
        (tmp_path / "proc/self/mountinfo").write_text(f"{mount.format(shown=shown)}\n{OTHERS}\n")
        top = tmp_path / mount.split()[4].replace("\\040", " ").lstrip("/")
        for place, text in limits.items():
            (top / place).mkdir(parents=True, exist_ok=True)
            names = ("cpu.max",) if mount == V2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            for name, value in zip(names, [text] if mount == V2 else text.split(), strict=True):
                (top / place / name).write_text(value + "\n")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("group", "limits", "share", "cores"),
    [
        ("0::/", {"": "200000 100000"}, 2.0, 2),
        ("0::/", {"": "150000 100000"}, 1.5, 2),
        ("0::/", {"": "10000 100000"}, 0.1, 1),
        ("0::/", {"": "max 100000"}, None, 64),
        ("0::/", {"": "9900000 100000"}, 99.0, 64),
        ("0::/", {}, None, 64),
        ("0::/pod/app", {"pod": "300000 100000", "pod/app": "max 100000"}, 3.0, 3),
        ("0::/pod/app", {"pod": "300000 100000", "pod/app": "800000 100000"}, 3.0, 3),
        ("0::/pod/app", {"pod": "800000 100000", "pod/app": "50000 25000"}, 2.0, 2),
        ("0::/pod/app", {"": "400000 100000"}, 4.0, 4),  # of a container that does not see its own path
        ("0::/../other", {"": "400000 100000", "../other": "100000 100000"}, 4.0, 4),
        ("0::/", {"": "words"}, None, 64),
        ("0::/", {"": "100000 0"}, None, 64),
    ],
)
def test_the_quota_of_version_2(system, group, limits, share, cores):
    root = system(group, V2, limits)
    assert (quota.quota(root), quota.cores(root)) == (share, cores)


@pytest.mark.parametrize(
    ("group", "shown", "limits", "share", "cores"),
    [
        ("4:cpu,cpuacct:/\n0::/", "/", {"": "250000 100000"}, 2.5, 3),
        ("4:cpuacct,cpu:/\n0::/", "/", {"": "-1 100000"}, None, 64),
        ("4:cpu,cpuacct:/docker/a", "/docker/a", {"": "100000 50000"}, 2.0, 2),
        ("4:cpu,cpuacct:/docker/a", "/", {"docker/a": "-1 100000", "docker": "70000 10000"}, 7.0, 7),
        ("4:cpu,cpuacct:/docker/a/b", "/docker/a", {"": "500000 100000", "b": "100000 100000"}, 1.0, 1),
        ("4:cpu,cpuacct:/docker/a", "/docker/ab", {"": "600000 100000"}, 6.0, 6),
        ("5:cpuset:/a\n4:memory:/b", "/", {"": "100000 100000"}, None, 64),
    ],
)
def test_the_quota_of_version_1(system, group, shown, limits, share, cores):
    root = system(group, V1, limits, shown)
    assert (quota.quota(root), quota.cores(root)) == (share, cores)


def test_a_mount_whose_name_has_a_space(system):
    root = system("4:cpu:/", V1.replace("/cpu,cpuacct rw", "/the\\040cpu rw"), {"": "200000 100000"})
    assert quota.cores(root) == 2


def test_a_system_without_groups_has_its_affinity(tmp_path, monkeypatch):
    assert (quota.quota(tmp_path), quota.cores(tmp_path)) == (None, quota.affinity())
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert quota.cores(tmp_path) == os.cpu_count()


@pytest.mark.parametrize(
    ("allowed", "asked", "found"), [(2, {}, "2"), (2, {"OMP_NUM_THREADS": "5"}, "5"), (64, {}, "")]
)
def test_libraries_start_as_many_threads_as_the_quota_allows(monkeypatch, allowed, asked, found):
    names = ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    for name in {*names, *process.TELEMETRY_OFF}:
        monkeypatch.setenv(name, "")  # remembered, to be put back
        monkeypatch.delenv(name)
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process, "cores", lambda: allowed)
    monkeypatch.setattr(process, "affinity", lambda: 64)
    process.prepare()
    assert os.environ.get("OMP_NUM_THREADS", "") == found
    assert os.environ.get("OPENCV_FOR_THREADS_NUM", "") == ("2" if allowed == 2 else "")


def test_extraction_has_a_worker_for_every_core_of_the_quota(tiny, drawn_photos, tmp_path, monkeypatch, lf):
    seen = []
    monkeypatch.setattr(extract, "cores", lambda: 6)
    monkeypatch.setattr(store, "extract_images", lambda *_, workers, **__: seen.append(workers) or store.Tally())
    for more in ((), ("--threads", 4), ("--workers", 5)):
        assert lf("extract", tiny().path, drawn_photos, "--out", tmp_path / "out", *more)[0] == 0
    assert seen == [6, 1, 5]


def test_a_file_is_made_on_the_cores_of_the_quota(monkeypatch):
    monkeypatch.setattr(ort, "cores", lambda: 3)
    assert ort.making().intra_op_num_threads == 3


def test_doctor_and_results_say_how_many_cores_may_be_used(monkeypatch):
    monkeypatch.setattr(doctor, "quota", lambda: 1.5)
    monkeypatch.setattr(doctor, "affinity", lambda: 8)
    monkeypatch.setattr(doctor, "cores", lambda: 2)
    monkeypatch.setattr(results, "cores", lambda: 2)
    row = next(row for row in doctor.examine() if row["name"] == "cores")
    there = os.cpu_count()
    assert row["detail"] == f"2 for lf: {there} in the machine, 8 by affinity, CPU quota of its container 1.5"
    found = results.environment(SessionInfo("engine", "1", "CPU", 1), results.__name__)
    assert (found.cores, found.cores_allowed) == (there, 2)
