"""COLMAP databases: cameras, images, keypoints and matches, read and written through SQLite.

Nothing of COLMAP is needed. The tables are those of COLMAP up to 3.11, which every later version opens and upgrades.
COLMAP has the centre of the first pixel at (0.5, 0.5), lf at (0, 0): the half pixel is added and taken away here only.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lf.core import Array, BadInput, DiskFull, UsageError
from lf.data.colmap_cameras import CAMERAS, HALF, Camera

PAIRS = 2147483647  # the number of a pair of images is PAIRS * smaller id + larger id
MAGIC = b"SQLite format 3\0"
WAIT = 1  # s to wait for another run that writes
LAST = "two_view_geometries"  # the table that is written last
KINDS = {int: "a whole number", str: "a text", bytes: "an array"}
PROGRAMS = "type IN ('view', 'trigger') OR sql LIKE 'CREATE VIRTUAL%'"  # queries inside a file may never end

SCHEMA = f"""
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, model INTEGER NOT NULL,
  width INTEGER NOT NULL, height INTEGER NOT NULL, params BLOB, prior_focal_length INTEGER NOT NULL);
CREATE TABLE images (image_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE,
  camera_id INTEGER NOT NULL, CONSTRAINT image_id_check CHECK(image_id >= 0 and image_id < {PAIRS}),
  FOREIGN KEY(camera_id) REFERENCES cameras(camera_id));
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
  data BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
  data BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL, data BLOB);
CREATE UNIQUE INDEX index_name ON images(name);
CREATE TABLE {LAST} (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
  data BLOB, config INTEGER NOT NULL, F BLOB, E BLOB, H BLOB, qvec BLOB, tvec BLOB);
"""


def pair_id(first: int, second: int) -> int:
    """The number of a pair of image ids, in either order."""
    return PAIRS * min(first, second) + max(first, second)


class Database:
    """An open database; see `opened` and `created`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self.sql = path, connection

    def ids(self) -> dict[str, int]:
        """Name -> id of every image, in the order of the ids."""
        rows = self.rows("SELECT name, image_id FROM images ORDER BY image_id", kinds=(str, int))
        return {name: key for name, key in rows}

    def cameras(self) -> dict[str, Camera]:
        """Name -> camera of every image."""
        names = {number: name for name, (number, _) in CAMERAS.items()}
        asked = "SELECT name, model, width, height, params, prior_focal_length FROM images NATURAL JOIN cameras"
        found = {}
        for name, model, width, height, params, known in self.rows(asked, kinds=(str, int, int, int, bytes, int)):
            numbers = np.frombuffer(params or b"", "<f8") if len(params or b"") % 8 == 0 else ()
            found[name] = Camera(names.get(model, str(model)), width, height, tuple(map(float, numbers)), bool(known))
        return found

    def camera(self, name: str) -> Camera:
        """The camera of an image.

        Raises:
            BadInput: the image has no camera, or it is damaged.
        """
        found = self.cameras()
        if name not in found:
            raise BadInput(f"{self.path}: image {name} has no camera; the database is damaged, make it again")
        return found[name]

    def add(self, name: str, camera: Camera, image_id: int | None = None) -> int:
        """Add an image with its own camera; return its id.

        Raises:
            UsageError: an image of this name exists.
        """
        values = (CAMERAS[camera.model][0], camera.width, camera.height)
        params = np.asarray(camera.params, "<f8").tobytes()
        with self._writing(f"image {name}"):
            ours = self.sql.execute(
                "INSERT INTO cameras VALUES (?, ?, ?, ?, ?, ?)", (image_id, *values, params, camera.known)
            )
            added = self.sql.execute("INSERT INTO images VALUES (?, ?, ?)", (image_id, name, ours.lastrowid))
        return int(added.lastrowid or 0)

    def write_keypoints(self, image_id: int, points: Array) -> None:
        """Write keypoints (N, 2), pixel centres at integers.

        Raises:
            UsageError: the image has keypoints.
        """
        shifted = np.ascontiguousarray(np.asarray(points, np.float32).reshape(-1, 2) + HALF, "<f4")
        with self._writing(f"keypoints of image {image_id}"):
            self.sql.execute("INSERT INTO keypoints VALUES (?, ?, 2, ?)", (image_id, len(shifted), shifted.tobytes()))

    def keypoints(self, image_id: int) -> Array:
        """Keypoints (N, 2) float32, pixel centres at integers; without the scales or shapes that COLMAP may keep.

        Raises:
            BadInput: the image has none, or they are damaged.
        """
        found = self.blob("keypoints", image_id, "<f4")
        if found is None or found.shape[1] < 2:
            raise BadInput(f"{self.path}: image {image_id} has no keypoints; expected rows with x and y")
        return np.asarray(found[:, :2] - HALF, np.float32)

    def blob(self, table: str, image_id: int, kind: str) -> Array | None:
        """The array (rows, cols) of an image in a table; None where it has none.

        Raises:
            BadInput: it is damaged.
        """
        asked = f"SELECT rows, cols, data FROM {table} WHERE image_id = ?"
        found = self.rows(asked, image_id, kinds=(int, int, bytes))
        return _array(f"{self.path}: {table} of image {image_id}", found[0], kind) if found else None

    def write_matches(self, first: int, second: int, matches: Array) -> None:
        """Write matches (M, 2): indices of keypoints of the first and the second image; both images exist.

        Raises:
            UsageError: the pair has matches.
            BadInput: a keypoint does not exist; COLMAP would end the process.
        """
        found = np.asarray(matches, np.int64).reshape(-1, 2)
        counts = self._count(first), self._count(second)
        if len(found) and (found.min() < 0 or (found.max(axis=0) >= counts).any()):
            raise BadInput(
                f"{self.path}: matches of images {first} and {second} name keypoint {found.max(axis=0).tolist()}, "
                f"the images have {list(counts)}; make the features and matches again"
            )
        ordered = np.ascontiguousarray(found[:, ::-1] if first > second else found, "<u4")
        with self._writing(f"matches of images {first} and {second}"):
            values = (pair_id(first, second), len(ordered), ordered.tobytes())
            self.sql.execute("INSERT INTO matches VALUES (?, ?, 2, ?)", values)

    def inliers(self) -> dict[tuple[int, int], int]:
        """Return the number of verified matches of each pair (smaller id, larger id) that COLMAP verified."""
        rows = self.rows(f"SELECT pair_id, rows FROM {LAST} ORDER BY pair_id", kinds=(int, int))
        return {divmod(number, PAIRS): count for number, count in rows}

    def rows(self, query: str, *values: Any, kinds: tuple[type, ...] = ()) -> list[Any]:
        """Rows of a query.

        Args:
            query: SQL.
            values: values of its placeholders.
            kinds: types of the columns to check, as SQLite does not; bytes may be NULL.

        Raises:
            BadInput: the database is damaged, or has other tables or types.
        """
        try:
            found = self.sql.execute(query, values).fetchall()
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            raise damaged(self.path, error) from error
        for row in found:
            for value, kind in zip(row, kinds, strict=False):
                if not isinstance(value, kind) and not (kind is bytes and value is None):
                    raise damaged(self.path, f"{str(value)[:40]!r} where {KINDS[kind]} was expected")
        return found

    def _count(self, image_id: int) -> int:
        found = self.rows("SELECT rows FROM keypoints WHERE image_id = ?", image_id, kinds=(int,))
        return found[0][0] if found else 0

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise UsageError(f"{self.path}: has {what} already; choose another place, or delete the file") from error
        except sqlite3.Error as error:
            raise unwritable(self.path, error) from error


def _array(where: str, row: Sequence[Any], kind: str) -> Array:
    rows, columns, data = row
    size = np.dtype(kind).itemsize
    if not (rows >= 0 and columns >= 0 and rows * columns * size == len(data or b"")):
        raise BadInput(f"{where}: {rows} x {columns} values in {len(data or b'')} bytes; the database is damaged")
    array: Array = np.frombuffer(data or b"", kind).reshape(rows, columns)
    if not np.isfinite(array).all():
        raise BadInput(f"{where}: a value is not finite; the database is damaged")
    return array


def damaged(path: Path, error: object) -> BadInput | UsageError:
    """Return the error for a file that is not a complete COLMAP database, or that another run is writing."""
    if "locked" in str(error):
        return UsageError(f"{path}: another run is writing it; wait until it ends, then type the command again")
    return BadInput(f"{path}: cannot be read as a COLMAP database ({error}); delete it and make it again")


def unwritable(path: Path, error: sqlite3.Error) -> UsageError | DiskFull:
    """Return the error for a database that cannot be written."""
    if "locked" in str(error):
        return UsageError(f"{path}: another run is writing it; wait until it ends, then type the command again")
    if "full" in str(error):
        return DiskFull(f"{path}: the disk is full; free some space or choose another place")
    return UsageError(f"{path}: cannot be written ({error}); choose another place")


@contextmanager
def created(path: Path) -> Iterator[Database]:
    """Create a database at `path`, a missing or empty file; it is written at the end of the block unless it fails."""
    connection = sqlite3.connect(path)
    try:
        connection.executescript(SCHEMA)
        connection.execute("PRAGMA synchronous = OFF")  # the caller renames the complete file
        yield Database(path, connection)
        connection.commit()
    except sqlite3.Error as error:
        raise unwritable(path, error) from error
    finally:
        connection.close()


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    """Open the database at `path` for reading.

    Raises:
        BadInput: it is missing, or not a COLMAP database.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected a COLMAP database")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise damaged(path, "it is not an SQLite file")
    connection = sqlite3.connect(f"file:{quote(os.fsencode(path.absolute()))}?mode=ro", timeout=WAIT, uri=True)
    try:
        database = Database(path, connection)
        names = {row[0] for row in database.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if missing := {"cameras", "images", "keypoints", "matches", LAST} - names:
            raise damaged(path, f"it has no table {', '.join(sorted(missing))}")
        if programs := database.rows(f"SELECT type, name FROM sqlite_master WHERE {PROGRAMS}"):
            raise damaged(path, f"it holds the {programs[0][0]} {programs[0][1]}; expected tables only")
        yield database
    finally:
        connection.close()


def seal(path: Path) -> None:
    """Merge files that COLMAP may keep beside the database at `path` into it, so that it can be copied."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise unwritable(path, error) from error
    finally:
        connection.close()


def recover(path: Path) -> None:
    """Roll back an incomplete write of a killed run in the database at `path`.

    Raises:
        BadInput: it is not a complete database.
        UsageError: another run is writing it.
    """
    connection = sqlite3.connect(path, timeout=WAIT)
    try:
        connection.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        raise damaged(path, error) from error
    finally:
        connection.close()
    check(path)


def check(path: Path) -> Path:
    """Read every page of the database at `path`, and return it.

    Raises:
        BadInput: it is not a complete COLMAP database.
    """
    with opened(path) as database:
        fault = database.rows("PRAGMA quick_check(1)")[0][0]
    if fault != "ok":
        raise damaged(path, " ".join(fault.split()))
    return path
