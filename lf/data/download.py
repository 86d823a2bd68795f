"""Download public datasets: resume, check, unpack into a complete folder or none.

It uses urllib: pooch does not resume interrupted downloads, and huggingface_hub would be installed for a single file.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import shutil
import ssl
import stat
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lf.core import BadInput, Unavailable, UsageError, console

Progress = Callable[[int, int, str], None]

CHUNK = 1 << 20
TIMEOUT = 30.0  # s without receiving a byte
ATTEMPTS = 5  # attempts in a row without new bytes
PAUSE = 1.0  # s, times the number of attempts without new bytes
BROKEN = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError)
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # the last two: encrypted


@dataclass(frozen=True)
class Source:
    """A public archive.

    Attributes:
        url: of a zip archive, http or https.
        sha256: hex, or None if unknown; then it is printed.
        limit: largest size of the archive, bytes.
        unpacked: largest total size of its files, bytes.
        member: pattern of the paths of files to keep; its groups `folder` and `name` are the destination.
        files: number of these files.
    """

    url: str
    sha256: str | None
    limit: int
    unpacked: int
    member: str
    files: int


SOURCES: dict[str, Source] = {
    # full image sequences of github.com/hpatches/hpatches-dataset: 116 sequences of 6 images and 5 homographies
    "hpatches": Source(
        url="https://huggingface.co/datasets/vbalnt/hpatches/resolve/main/hpatches-sequences-release.zip",
        sha256="99cf7e1ca167896eb4ca2fe3d903beff6566243a3c0c8e07a13a2596648ad670",
        limit=1_279_545_572,
        unpacked=8 << 30,
        member=r"(?:[\w-]+/)?(?P<folder>[iv]_[\w-]+)/(?P<name>[1-6]\.ppm|H_1_[2-6])",
        files=116 * (6 + 5),
    ),
}


def get(source: Source, out: Path, progress: Progress = lambda done, total, text: None) -> Path:
    """Download and unpack a source to the folder `out`; return it. The download is kept beside it until that succeeds.

    Raises:
        UsageError: `out` holds something else, or the address is invalid.
        Unavailable: the server cannot be reached, refuses, or interrupts; the same command resumes.
        BadInput: the content is wrong; it is removed.
    """
    if not re.fullmatch(r"https?://[\w.-]+(:\d+)?/\S+", source.url):
        raise UsageError(f"{source.url}: no address to download from; expected http://... or https://...")
    home = out.resolve()
    if home.is_dir() and _complete(source, home):
        return out
    if home.exists() and not (home.is_dir() and not any(home.iterdir())):
        raise UsageError(f"{out}: exists and holds something else; choose another `out`")
    home.parent.mkdir(parents=True, exist_ok=True)
    part = home.with_name(f"{home.name}.zip.part")
    try:
        download(source, part, progress)
        progress(0, 1, f"checking {part.name}")
        verify(source, part)
    except BadInput:
        part.unlink()
        raise
    with _whole(home) as folder:
        extract(source, part, folder, progress)
    part.unlink()
    return out


def download(source: Source, part: Path, progress: Progress) -> None:
    """Download the rest of `part`; a broken connection is resumed.

    Raises:
        Unavailable: the server refuses, or sends nothing `ATTEMPTS` times in a row.
        BadInput: more than `source.limit` bytes.
    """
    failures, most = 0, _length(part)
    while failures < ATTEMPTS:
        try:
            _append(source, part, progress)
            return
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and most:
                return  # complete; `verify` checks it
            raise Unavailable(f"{source.url}: the server answers {error.code} {error.reason}") from error
        except BROKEN as error:
            reason = error
        failures = 0 if _length(part) > most else failures + 1
        most = max(most, _length(part))
        time.sleep(PAUSE * failures)
    kept = f"; {most / 1e6:.1f} MB are kept in {part}, the same command resumes" if part.exists() else ""
    raise Unavailable(f"{source.url}: no connection, or connection lost ({reason}){kept}")


def verify(source: Source, archive: Path) -> None:
    """Compare the content with `source.sha256`; if that is unknown, print the digest.

    Raises:
        BadInput: they differ.
    """
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if source.sha256 is None:
        console.note(f"sha256 {found} of {source.url}: not known to lf, so not checked")
    elif found != source.sha256:
        raise BadInput(
            f"{source.url}: has changed or was damaged in transit, and was removed: "
            f"sha256 {found}, expected {source.sha256}"
        )


def extract(source: Source, archive: Path, folder: Path, progress: Progress) -> None:
    """Unpack the files of a source into `folder`, after checking all of them.

    Raises:
        BadInput: not an archive, damaged, or with a path that leads out, a link, too many bytes, or other files.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            chosen = _members(source, opened, archive)
            for done, (target, member) in enumerate(chosen.items()):
                progress(done, len(chosen), f"unpacking {target}")
                (folder / target).parent.mkdir(exist_ok=True)
                with opened.open(member) as packed, (folder / target).open("xb") as file:
                    shutil.copyfileobj(packed, file, CHUNK)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # raised for a position outside the file
            raise
        raise BadInput(f"{archive}: cannot be unpacked ({error}); remove it and download it again") from error


def _members(source: Source, opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """Map destinations `folder/name` to members."""
    chosen: dict[str, zipfile.ZipInfo] = {}
    members = opened.infolist()
    if len(members) > 4 * source.files or sum(member.file_size for member in members) > source.unpacked:
        raise BadInput(f"{archive}: unpacks to more than {4 * source.files} files or {source.unpacked} bytes")
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or ":" in parts[0] or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BadInput(f"{archive}: holds {member.filename!r}, a link or a path that leads out of its folder")
        if found := re.fullmatch(source.member, member.filename, re.ASCII):
            target = f"{found['folder']}/{found['name']}"
            if target in chosen:
                raise BadInput(f"{archive}: holds {target} twice")
            chosen[target] = member
    if len(chosen) != source.files:
        raise BadInput(f"{archive}: holds {len(chosen)} of the {source.files} files expected")
    return chosen


def _append(source: Source, part: Path, progress: Progress) -> None:
    """Open one connection and append the missing bytes; start again if the server cannot resume."""
    begin = _length(part)
    request = urllib.request.Request(source.url, headers={"Range": f"bytes={begin}-"} if begin else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if not (answer.headers["Content-Range"] or "").startswith(f"bytes {begin}-"):
            begin = 0
        announced = answer.headers["Content-Length"]
        total = begin + int(announced) if announced else source.limit
        with part.open("ab" if begin else "wb") as file:
            end = _copy(answer, file, source, begin, total, progress)
    if announced and end < total:
        raise ConnectionError(f"{end} of {total} bytes")


def _copy(answer: BinaryIO, file: BinaryIO, source: Source, done: int, total: int, progress: Progress) -> int:
    """Append the answer to the `done` existing bytes; return the new number of bytes."""
    while max(done, total) <= source.limit:
        if not (chunk := answer.read(CHUNK)):
            return done
        file.write(chunk)
        done += len(chunk)
        progress(done >> 20, total >> 20, "MiB downloaded")
    raise BadInput(f"{source.url}: sends more than the {source.limit} bytes expected")


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _complete(source: Source, out: Path) -> bool:
    names = (path.relative_to(out).as_posix() for path in out.glob("*/*"))
    return sum(1 for name in names if re.fullmatch(source.member, name, re.ASCII)) == source.files


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out` that is renamed to `out`, or removed on an error."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        folder.replace(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
