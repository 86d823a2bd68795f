"""COLMAP's database as a layout of features: all images in one file.

Keypoints are in COLMAP's table. Scores, descriptors and scales are in a table of lf, which COLMAP ignores, because
COLMAP's table of descriptors only holds SIFT's bytes. From databases that COLMAP made, these bytes are read.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lf.core import Array, BadInput, Features, UsageError, files
from lf.data import colmap, colmap_cameras
from lf.formats import npz

NAME, SUFFIX = "database.db", ".db"
TABLE = "lf_features"
COLUMNS = "scores, length, descriptors, scales"  # length: numbers in a descriptor
OWN = f"CREATE TABLE {TABLE} (image_id INTEGER PRIMARY KEY NOT NULL, scores BLOB, length INTEGER NOT NULL, "
OWN += "descriptors BLOB, scales BLOB)"
KIND = "<f4"


class Colmap:
    """The database in a folder, or at a path that ends in .db.

    Images are added to `database.db.part`, which is renamed at the end; an interrupted run resumes from it.
    """

    def __init__(self, where: Path) -> None:
        """Store the path of the file, or of the file in a folder."""
        self._path = where if where.suffix == SUFFIX else _only(where)
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._writer: colmap.Database | None = None

    def __enter__(self) -> Colmap:
        """Roll back an incomplete write of a killed run.

        Raises:
            BadInput: the file of an earlier run is not a complete database.
            UsageError: another run is writing it.
        """
        if self._part.is_file() and not self._part.stat().st_size:
            self._part.unlink()
        if self._part.is_file():
            colmap.recover(self._part)
        return self

    def __exit__(self, *raised: object) -> None:
        """Rename the file when it is complete; keep the part to resume otherwise."""
        if self._writer is not None:
            self._writer.sql.close()
            self._writer = None
        if raised[0] is None and self._part.is_file():
            self._part.replace(self._path)

    def has(self, name: str) -> bool:
        """See `Store`.

        Raises:
            BadInput: SQLite cannot store that name.
        """
        if not files.is_utf8(name):
            raise BadInput(
                f"{name}: the name of this image is not UTF-8, as COLMAP needs it; rename it or leave it out"
            )
        path = self._part if self._part.is_file() else self._path
        if self._writer is None and not path.is_file():
            return False
        with self._reading(path) as database:
            return bool(database.rows(f"SELECT 1 FROM images NATURAL JOIN {TABLE} WHERE name = ?", name))

    def write(self, name: str, features: Features) -> None:
        """See `Store`."""
        arrays = (features.scores if features.scored else None, features.descriptors, features.scales)
        scores, descriptors, scales = (None if each is None else each.astype(KIND).tobytes() for each in arrays)
        own = (scores, features.descriptors.shape[1], descriptors, scales)
        try:
            writer = self._writer = self._writer or self._begun()
            with writer.sql:
                _forget(writer, name)
                image_id = writer.add(name, colmap_cameras.guessed(features.size))
                writer.write_keypoints(image_id, features.keypoints)
                writer.sql.execute(f"INSERT INTO {TABLE} VALUES (?, ?, ?, ?, ?)", (image_id, *own))
        except sqlite3.Error as error:
            raise colmap.unwritable(self._path, error) from error
        except OSError as error:
            raise files.explain(error, self._path) from error

    def read(self, key: str, size: tuple[int, int]) -> Features:
        """See `Store`; without descriptors in the database, descriptors have length 0."""
        with colmap.opened(self._path) as database:
            ids = database.ids()
            found = [key] if key in ids else [name for name in ids if name.startswith(f"{key}.")]
            if len(found) != 1:
                have = f"{', '.join(found)}: which one?" if found else "none"
                raise BadInput(f"{self._path}: image {key}: {have}; expected one, such as {key}.ppm")
            where, image_id = f"{self._path}: {found[0]}", ids[found[0]]
            camera, points = database.camera(found[0]), database.keypoints(image_id)
            scores, descriptors, scales = _own(database, where, image_id, len(points))
        return npz.features(where, points, scores, descriptors, (camera.width, camera.height), scales)

    def _begun(self) -> colmap.Database:
        """Open the part for writing, exclusively."""
        self._part.parent.mkdir(parents=True, exist_ok=True)
        if self._path.is_file() and not self._part.is_file():
            shutil.copyfile(colmap.check(self._path), self._part)
        connection = sqlite3.connect(self._part, timeout=colmap.WAIT)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if TABLE not in tables and "images" in tables:
            raise UsageError(f"{self._path}: lf did not make this database; choose another place")
        if TABLE not in tables:
            connection.executescript(f"BEGIN; {colmap.SCHEMA} {OWN}; COMMIT;")
        return colmap.Database(self._part, connection)

    @contextmanager
    def _reading(self, path: Path) -> Iterator[colmap.Database]:
        if self._writer is not None:
            yield self._writer
            return
        with colmap.opened(path) as database:
            yield database


def _only(folder: Path) -> Path:
    """Return `database.db` in a folder, or the only .db file if it has another name."""
    found = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    return found[0] if len(found) == 1 else folder / NAME


def _forget(database: colmap.Database, name: str) -> None:
    """Remove an image, if it exists, with all its own rows."""
    for image_id, camera_id in database.rows("SELECT image_id, camera_id FROM images WHERE name = ?", name):
        for table in ("images", "keypoints", TABLE):
            database.sql.execute(f"DELETE FROM {table} WHERE image_id = ?", (image_id,))
        database.sql.execute("DELETE FROM cameras WHERE camera_id = ?", (camera_id,))


def _own(database: colmap.Database, where: str, image_id: int, count: int) -> tuple[Array | None, Array, Array | None]:
    """Read scores, descriptors and scales; from a database of COLMAP, SIFT's bytes or nothing."""
    made = database.rows("SELECT 1 FROM sqlite_master WHERE name = ?", TABLE)
    asked = f"SELECT {COLUMNS} FROM {TABLE} WHERE image_id = ?"
    rows = made and database.rows(asked, image_id, kinds=(bytes, int, bytes, bytes))
    if not rows:
        found = database.blob("descriptors", image_id, "u1")
        return None, np.empty((count, 0)) if found is None else found.astype(np.float32), None
    scores, length, descriptors, scales = rows[0]
    wide = _floats(where, descriptors or b"")
    if length < 0 or wide.size != count * length:
        raise BadInput(f"{where}: {wide.size} numbers in {count} descriptors of {length}; the database is damaged")
    one = [None if data is None else _floats(where, data) for data in (scores, scales)]
    return one[0], wide.reshape(count, length), one[1]


def _floats(where: str, data: bytes) -> Array:
    found: Array = np.frombuffer(data, KIND) if len(data) % 4 == 0 else np.full(1, np.nan, np.float32)
    if not np.isfinite(found).all():
        raise BadInput(f"{where}: an array holds a value that is not finite; the database is damaged")
    return found
