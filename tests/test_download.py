"""Downloads: against a server on this machine, with a tiny archive made here."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import stat
import threading
import zipfile
from dataclasses import replace

import pytest

from lf.benchmarks import PROTOCOLS
from lf.core import BadInput, Unavailable, UsageError
from lf.data import download, hpatches
from lf.data.download import SOURCES, Source, get

PPM = b"P6 16 16 255\n" + bytes(range(256)) * 3
NAMES = [f"hp/{s}/{n}" for s in ("i_dc", "v_boat") for n in ("1.ppm", "2.ppm", "H_1_2")]


def archive(names=NAMES, extra=(), links=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name in names:
            made.writestr(name, b"1 0 0 0 1 0 0 0 1" if "H_1_" in name else PPM)
        for name, data in extra:
            made.writestr(name, data)
        for name in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            made.writestr(info, "/etc/passwd")
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `cut` bytes of each answer come through, unless None; `ranged` honours Range."""

    content, cut, ranged, asked = b"", None, True, ()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hp.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers["Range"]
        server.asked = (*server.asked, wanted)
        if self.path != "/hp.zip":
            self.send_error(404)
            return
        begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranged else 0
        body = server.content[begin:]
        if begin and not body:
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut])

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def source(server, content, **changes):
    """The row of HPatches, for what the server holds."""
    server.content = content
    row = replace(SOURCES["hpatches"], url=server.url, sha256=hashlib.sha256(content).hexdigest(), limit=len(content))
    return replace(row, **{"files": len(NAMES), "unpacked": 1 << 20, **changes})


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_dataset_is_there_and_opens(server, tmp_path):
    out = tmp_path / "sub" / "hp"
    steps = []
    row = source(server, archive(extra=[("hp/i_dc/attribs.txt", b"x"), ("__MACOSX/hp/i_dc/._1.ppm", b"x")]))
    assert get(row, out, lambda *step: steps.append(step)) == out
    assert sorted(f"hp/{p.relative_to(out).as_posix()}" for p in out.rglob("*") if p.is_file()) == sorted(NAMES)
    assert [pair.sequence for pair in hpatches.pairs(out)] == ["i_dc", "v_boat"]
    assert left(tmp_path / "sub") == ["hp"]
    assert any("downloaded" in text for *_, text in steps)
    assert any("unpacking" in text for *_, text in steps)


def test_what_is_there_is_not_loaded_again(server, tmp_path):
    row = source(server, archive())
    get(row, tmp_path / "hp")
    get(row, tmp_path / "hp")
    assert server.asked == (None,)


def test_an_empty_folder_is_filled_and_a_full_one_is_left_alone(server, tmp_path):
    row = source(server, archive())
    (tmp_path / "empty").mkdir()
    get(row, tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    for taken in (tmp_path / "full", tmp_path / "full" / "note.txt"):
        with pytest.raises(UsageError, match=r"exists and holds something else; choose another `out`"):
            get(row, taken)
    assert left(tmp_path / "full") == ["note.txt"]


def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cut = 900
    content = archive()
    get(source(server, content), tmp_path / "hp")
    assert server.asked == (None, *(f"bytes={at}-" for at in range(900, len(content), 900)))


def test_the_next_command_resumes(server, tmp_path):
    content = archive()
    row, part = source(server, content), tmp_path / "hp.zip.part"
    part.write_bytes(content[:1000])
    get(row, tmp_path / "hp")
    assert server.asked == ("bytes=1000-",)
    assert left(tmp_path) == ["hp"]


def test_a_server_that_sends_nothing_more_is_given_up_and_the_part_is_kept(server, tmp_path):
    content = archive()
    row, part = source(server, content), tmp_path / "hp.zip.part"
    part.write_bytes(content[:1000])
    server.cut = 0
    with pytest.raises(
        Unavailable,
        match=r"no connection, or connection lost \(1000 of \d+ bytes\); 0\.0 MB are kept in .*hp\.zip\.part",
    ):
        get(row, tmp_path / "hp")
    assert len(server.asked) == download.ATTEMPTS
    assert part.read_bytes() == content[:1000]


def test_a_part_that_was_whole_is_only_checked(server, tmp_path):
    content = archive()
    (tmp_path / "hp.zip.part").write_bytes(content)
    get(source(server, content), tmp_path / "hp")
    assert left(tmp_path) == ["hp"]


def test_a_server_without_range_starts_over(server, tmp_path):
    content = archive()
    (tmp_path / "hp.zip.part").write_bytes(b"?" * 1000)
    server.ranged = False
    get(source(server, content), tmp_path / "hp")
    assert left(tmp_path) == ["hp"]
    server.cut = 900
    with pytest.raises(Unavailable, match="the same command resumes"):
        get(source(server, content), tmp_path / "again")


def test_changed_content_is_refused_and_removed(server, tmp_path):
    row = source(server, archive(), sha256="0" * 64)
    with pytest.raises(BadInput, match=r"has changed or was damaged in transit, and was removed: sha256 \w+, exp"):
        get(row, tmp_path / "hp")
    assert left(tmp_path) == []


def test_unknown_content_is_named(server, tmp_path, capsys):
    content = archive()
    get(source(server, content, sha256=None), tmp_path / "hp")
    assert f"sha256 {hashlib.sha256(content).hexdigest()} of {server.url}: not known to lf" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (archive(extra=[("../evil", b"x")]), r"holds '\.\./evil', a link or a path that leads out"),
        (archive(extra=[("hp/../../i_x/1.ppm", b"x")]), "leads out"),
        (archive(extra=[("/evil", b"x")]), "leads out"),
        (archive(extra=[("C:/evil", b"x")]), "leads out"),
        (archive(extra=[("hp\\..\\..\\evil", b"x")]), "leads out"),
        (archive(NAMES[:-1], links=[NAMES[-1]]), "a link or a path"),
        (archive(extra=[("hp/big", bytes((1 << 20) + 1))]), "unpacks to more than 24 files or 1048576 bytes"),
        (archive(extra=[(f"hp/{n}", b"") for n in range(40)]), "unpacks to more than 24 files"),
        (archive(NAMES[:-1]), "holds 5 of the 6 files expected"),
        (archive([*NAMES, "hp/v_boat/3.ppm"]), "holds 7 of the 6 files expected"),
        (archive([*NAMES, "v_boat/1.ppm"]), "holds v_boat/1.ppm twice"),
        (
            archive()[:-30],
            r"hp\.zip\.part: cannot be unpacked \(File is not a zip file\); remove it",
        ),
        (archive().replace(PPM, bytes(len(PPM))), r"cannot be unpacked \(Bad CRC-32"),
        (archive().replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"), "encrypted"),
    ],
    ids=[
        "parent",
        "nested",
        "absolute",
        "drive",
        "backslash",
        "link",
        "large",
        "many",
        "missing",
        "more",
        "twice",
        "cut",
        "damaged",
        "encrypted",
    ],
)
def test_an_archive_that_is_not_what_it_should_be_writes_nothing(server, tmp_path, content, text):
    inner = tmp_path / "inner"
    with pytest.raises(BadInput, match=text):
        get(source(server, content), inner / "hp")
    assert left(inner) == ["hp.zip.part"]
    assert left(tmp_path) == ["inner"]


def test_too_much_is_stopped_and_removed(server, tmp_path):
    row = source(server, archive())
    with pytest.raises(BadInput, match=r"sends more than the 500 bytes expected"):
        get(replace(row, limit=500), tmp_path / "hp")
    assert left(tmp_path) == []


def test_no_such_file(server, tmp_path):
    row = replace(source(server, archive()), url=server.url + "x")
    with pytest.raises(Unavailable, match=r"hp\.zipx: the server answers 404 Not Found"):
        get(row, tmp_path / "hp")
    assert left(tmp_path) == []


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(Unavailable, match=r"no connection, or connection lost .*refused"):
        get(replace(SOURCES["hpatches"], url=f"http://127.0.0.1:{port}/hp.zip"), tmp_path / "hp")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/a", "host/a", "http://user:secret@host/a", "https://h"]
)
def test_no_address(url, tmp_path):
    with pytest.raises(UsageError, match="no address to download from; expected http://"):
        get(replace(SOURCES["hpatches"], url=url), tmp_path / "hp")


@pytest.mark.parametrize("row", SOURCES.values(), ids=SOURCES)
def test_every_source_is_complete(row: Source):
    assert row.url.startswith("https://")
    assert row.sha256 is None or re.fullmatch("[0-9a-f]{64}", row.sha256)
    assert row.files
    assert set(re.compile(row.member).groupindex) == {"folder", "name"}


def test_the_eight_large_sequences_are_left_out_by_mma_alone():
    kept = [
        re.fullmatch(SOURCES["hpatches"].member, f"hpatches-sequences-release/{name}/1.ppm")
        for name in hpatches.OVERSIZE
    ]
    assert [found["folder"] for found in kept] == list(PROTOCOLS["mma"].without)
    assert len(kept) == 8
    assert {name for name, rule in PROTOCOLS.items() if rule.without} == {"mma"}
