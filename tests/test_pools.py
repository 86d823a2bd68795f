"""lf bench and lf sweep on a pool of machines, and on one that is reached by SSH."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lf.benchmarks.run import pool, remote, results
from lf.benchmarks.run.pool import Work, compute, needs_of, parse_needs
from lf.benchmarks.run.suite import suite
from lf.core import BadInput, Unavailable, UsageError
from lf.core.fingerprint import versions
from lf.data import dataset_digest, open_dataset
from lf.extraction.variant import Variant
from lf.models.resolve import resolve
from lf.runtimes import BACKENDS
from lf.studies import sweep

DATA = "procedural:2"


def work(name="orb", **changes):
    variant = Variant(resolve(name), "opencv")
    return replace(Work((variant,), DATA, dataset_digest(open_dataset(DATA)), "kp2d-fixed"), **changes)


def content(some):
    return {each.artifact.sha256: each.artifact.path.read_bytes() for each in some.variants}


@pytest.fixture
def here(monkeypatch):
    """POOLS["here"]: every work in this process, the last first; `lost` works are never answered."""
    calls = SimpleNamespace(works=[], lost=0)

    def local(works):
        for index, some in [*enumerate(works)][::-1][calls.lost :]:
            calls.works.append(some)
            yield pool._answer(index, json.loads(json.dumps(compute(some, content(some), versions(pool.BY)))))

    monkeypatch.setitem(pool.POOLS, "here", local)
    return calls


def measured(runs):
    return [(run.label, run.summary, run.pairs, run.dataset) for run in runs]


# --- what a machine does


def test_a_machine_makes_the_run_that_this_one_makes():
    answer = pool._answer(0, compute(work(), content(work()), versions(pool.BY)))
    assert measured([answer.run]) == measured(suite([resolve("orb")], None, DATA, "kp2d-fixed", repeats=0))
    assert answer.run.environment.machine == platform.node()


@pytest.mark.parametrize(
    ("changes", "expected", "kind", "text"),
    [
        ({"digest": "00"}, {}, BadInput, f"{DATA} holds other data on that machine; copy the same files to the same"),
        ({}, {"lf": "0.0"}, Unavailable, "has another version of lf (lf: was "),
        ({"variants": (Variant(resolve("orb"), "ort-cpu"),)}, {}, UsageError, "backend ort-cpu runs .onnx"),
    ],
)
def test_what_is_wrong_on_a_machine_is_said_with_its_name(changes, expected, kind, text):
    some = work(**changes)
    answer = pool._answer(0, compute(some, content(some), {**versions(pool.BY), **expected}))
    assert type(answer.error) is kind
    assert f"machine {platform.node()}: " in str(answer.error)
    assert text in str(answer.error)


def test_a_file_travels_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setattr(pool.tempfile, "gettempdir", lambda: str(tmp_path))
    artifact = resolve("orb")
    first = pool._received(artifact, content(work()))
    assert first.path.read_bytes() == artifact.path.read_bytes()
    first.path.write_bytes(b"somebody else was here")
    again = pool._received(artifact, content(work()))
    assert (again.path, again.sha256) == (first.path, artifact.sha256)


# --- who gets what


def test_needs():
    assert needs_of(Variant(resolve("orb"), "opencv"), {}) == {}
    assert needs_of(Variant(resolve("orb"), "edgetpu"), {"rpi4": 1}) == {"edgetpu": 1, "rpi4": 1}
    assert {row.resource for row in BACKENDS.values()} == {"", "cuda", "edgetpu"}
    assert parse_needs(["rpi4", "memory=2.5"]) == {"rpi4": 1, "memory": 2.5}
    for word in ("", "=2", "rpi4=x", "rpi4=0", "rpi4=-1"):
        with pytest.raises(UsageError, match="expected NAME or NAME=AMOUNT, for example rpi4"):
            parse_needs([word])


def test_a_pool_without_what_is_needed_is_refused():
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 1.0, "rpi4": 1.0}}]
    ray = SimpleNamespace(nodes=lambda: nodes)
    pool._refuse_unmet(ray, work(threads=4))
    with pytest.raises(Unavailable, match=r"orb\.card opencv: no machine of the pool has rpi4 1 and 1 cores"):
        pool._refuse_unmet(ray, work(needs={"rpi4": 1.0}))
    with pytest.raises(Unavailable, match=r"has 5 cores; start Ray on one with the resources \{\}, see"):
        pool._refuse_unmet(ray, work(threads=5))


# --- bench


def test_bench_in_a_pool_is_bench_and_resumes(here, tmp_path):
    files = [resolve(name) for name in ("orb", "sift", "akaze")]
    whole = suite(files, None, DATA, "kp2d-fixed", repeats=0)
    here.lost = 1
    with pytest.raises(KeyError):  # the first file was never answered
        suite(files, None, DATA, "kp2d-fixed", repeats=0, out=tmp_path, pool="here")
    assert len(here.works) == 2
    here.lost = 0
    runs = suite(files, None, DATA, "kp2d-fixed", repeats=0, out=tmp_path, pool="here")
    assert len(here.works) == 3, "what was there is not computed again"
    assert measured(runs) == measured(whole) == measured(results.load(tmp_path / "results.json"))


@pytest.mark.slow
def test_files_that_need_the_same_are_timed_in_turns(here):
    runs = suite([resolve("orb"), resolve("sift")], None, DATA, "kp2d-fixed", repeats=2, pool="here")
    assert [len(some.variants) for some in here.works] == [1, 1, 2]
    assert runs[0].ratio.end_to_end.value == 1
    assert {run.environment.timed_on for run in runs} == {platform.node()}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--pool", "rays"), "unknown pool 'rays'; did you mean 'ray'?"),
        (("--needs", "rpi4"), "--needs says what the machines of a pool must have; type: --pool ray"),
        (("--pool", "ray", "--draw", "--out", "x"), "--draw needs the features on this machine; leave out --pool"),
        (("--pool", "ray", "--on", "ssh://a"), "--on runs on one other machine; leave out --pool"),
        (("--needs", "rpi4", "--on", "ssh://a"), "--on runs on one other machine; leave out --needs"),
        (("--on", "http://a"), "--on http://a: expected ssh://[USER@]HOST[:PORT][/PATH/OF/lf]"),
        (("--on", "ssh://-oProxyCommand=x"), "expected ssh://[USER@]HOST[:PORT][/PATH/OF/lf]"),
    ],
)
def test_what_does_not_go_together_is_refused(lf, tmp_path, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    code, _, noted = lf("bench", "orb", "--data", DATA, *words)
    assert (code, text in noted) == (2, True), noted


# --- sweep

PLAN = """backend = "opencv-dnn"
repeats = 0
[[data]]
name = "drawn"
root = "procedural:2"
protocols = ["kp2d-fixed"]
[[model]]
file = "orb"
[[model]]
file = "sift"
"""


def test_sweep_in_a_pool_is_sweep(here, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    for name, more in (("one", ()), ("pool", ("here",)), ("pool", ("here",))):
        sweep.sweep(tmp_path / "plan.toml", tmp_path / name, lambda *_: None, *more)
    assert len(here.works) == 2, "the second time all is there"
    tables = [(tmp_path / name / "table.md").read_text().splitlines() for name in ("one", "pool")]
    first, second = ([line for line in table if line.startswith("|")] for table in tables)
    assert first == second
    assert measured(results.load(tmp_path / "pool" / "results.json")) == measured(
        results.load(tmp_path / "one" / "results.json")
    )


# --- Ray itself


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_the_work_of_a_node_that_is_lost_goes_to_another(tmp_path, monkeypatch):
    """Three nodes: the head, and two with a board; one of these is killed while both compute."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # else its workers wait for whatever else this machine does

    files = [resolve(name) for name in ("orb", "sift", "akaze")]
    whole = suite(files, None, "procedural:2", "kp2d-fixed", repeats=0)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        boards = [cluster.add_node(num_cpus=1, resources={"rpi4": 1}) for _ in range(2)]
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        killed = threading.Timer(0, lambda: None)

        def progress(done, total, text):
            nonlocal killed
            if done == 1:
                killed = threading.Timer(0.1, cluster.remove_node, (boards[0],), {"allow_graceful": False})
                killed.start()

        how = {"repeats": 0, "out": tmp_path, "pool": "ray", "progress": progress}
        runs = suite(files, None, "procedural:2", "kp2d-fixed", needs={"rpi4": 1.0}, **how)
        killed.join()
        assert measured(runs) == measured(whole)
        head = cluster.head_node.node_id[:8]
        assert head not in {run.environment.machine.split()[1] for run in runs}, "only nodes with a board computed"
        with pytest.raises(Unavailable, match="no machine of the pool has edgetpu 1 and 1 cores; start Ray"):
            suite(files[:1], None, DATA, "kp2d-fixed", repeats=0, pool="ray", needs={"edgetpu": 1.0})
    finally:
        cluster.shutdown()


# --- SSH


def test_addresses():
    assert remote.parse("ssh://pi") == remote.Host("pi")
    assert remote.parse("ssh://me@pi.local:2222/opt/lf/bin/lf") == remote.Host("me@pi.local", "2222", "/opt/lf/bin/lf")
    assert remote.parse("ssh://[fe80::1]:22").name == "[fe80::1]"
    for text in ("pi", "ssh://", "ssh://a b", "ssh://a:x", "ssh://-x", "ssh://a;rm"):
        with pytest.raises(UsageError, match=r"expected ssh://\[USER@\]HOST"):
            remote.parse(text)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """(address) of an OpenSSH server on this machine that takes one key, made for it."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists() or not shutil.which("ssh"):
        pytest.skip("needs OpenSSH: sudo apt install openssh-server openssh-client")
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    shutil.copy(tmp_path / "key.pub", tmp_path / "authorized")
    port = 20000 + os.getpid() % 20000
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {tmp_path / 'host'}", "StrictModes no", "UsePAM no"]
    lines += [f"AuthorizedKeysFile {tmp_path / 'authorized'}", f"PidFile {tmp_path / 'pid'}", "PermitRootLogin yes"]
    (tmp_path / "sshd_config").write_text("\n".join(lines) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    lf = tmp_path / "lf"
    lf.write_text(f'#!/bin/sh\nexec {sys.executable} -m lf "$@"\n')
    lf.chmod(0o755)
    wrapper = tmp_path / "bin" / "ssh"  # the key and the known hosts of the test, not of whoever runs it
    wrapper.parent.mkdir()
    options = f"-i {tmp_path / 'key'} -o StrictHostKeyChecking=no -o UserKnownHostsFile={tmp_path / 'known'}"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F none {options} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", tmp_path / "sshd_config"], stderr=log)
        try:
            for _ in range(100):
                if "listening" in (tmp_path / "log").read_text():
                    break
                time.sleep(0.1)
            yield f"ssh://127.0.0.1:{port}", lf
        finally:
            process.terminate()
            process.wait()


@pytest.mark.slow
def test_bench_on_a_machine_that_ssh_reaches(server, lf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address, program = server
    shutil.copy(resolve("orb").path, tmp_path / "my file's.card")
    words = ("--data", DATA, "--repeats", "0", "--json")
    code, said, noted = lf("bench", "my file's.card", *words, "--on", f"{address}{program}", "--out", "out")
    assert code == 0, noted
    (run,) = json.loads(said)["runs"]
    assert (run["environment"]["machine"], run["artifact"]["file"]) == ("127.0.0.1", "my file's.card")
    whole = json.loads(lf("bench", "my file's.card", *words)[1])["runs"][0]
    assert (run["pairs"], run["summary"]) == (whole["pairs"], whole["summary"])
    assert results.load(tmp_path / "out" / "results.json")[0].environment.machine == "127.0.0.1"
    assert not [*Path(tempfile.gettempdir()).glob("lf-bench.*")], "nothing is left there"
    code, _, noted = lf("bench", "orb", "--data", "nothing:there", "--on", f"{address}{program}")
    assert (code, noted.startswith("lf: 127.0.0.1: unknown dataset 'nothing'")) == (2, True)
    code, _, noted = lf("bench", "orb", "--on", f"{address}/no/such/lf")
    assert (code, "lf: 127.0.0.1: has no /no/such/lf; install it there, or give its path" in noted) == (4, True)
    code, _, noted = lf("bench", "orb", "--on", "ssh://127.0.0.1:1")
    assert (code, noted.startswith("lf: 127.0.0.1 cannot be reached (")) == (4, True)
    assert noted.endswith("try: ssh -o Port=1 127.0.0.1\n")
