"""Stages from images to a verified database: features, matches, database. Each can resume.

OUT/PLACE/lf-sfm.json    settings and results of the work
OUT/PLACE/features/      one file per image, layout lf
OUT/PLACE/matches/       one file per first image
OUT/PLACE/database.db    COLMAP's, verified
OUT/PLACE/model/         COLMAP's model, as text
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lf.benchmarks.run.evaluate import refuse_calibrated
from lf.benchmarks.sfm import colmap, matches
from lf.benchmarks.sfm.pairs import Pairs
from lf.benchmarks.sfm.places import Place
from lf.core import BadInput, UsageError, files, ledger, pick
from lf.core.fingerprint import versions
from lf.data import Picture
from lf.data import colmap as databases
from lf.data.layouts.images import LF, Folder
from lf.extraction import store
from lf.extraction.extractor import Extractor
from lf.extraction.pools import POOLS
from lf.extraction.variant import Variant

NOTE, FEATURES, MATCHES, DATABASE, MODEL = "lf-sfm.json", "features", "matches", "database.db", "model"
MADE = "lf_made"  # table of a database that identifies the work

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class How:
    """Settings of features and matches.

    Attributes:
        matcher: a row of MATCHERS.
        top_k: number of best keypoints of each image; None takes all.
        workers: number of images in parallel.
        threads: number of threads of COLMAP's verification.
        shard: (I, N): compute only shard I of N of the features and matches.
        pool: row of POOLS that extracts the features, or None for this machine.
    """

    matcher: str
    top_k: int | None
    workers: int = 1
    threads: int = 1
    shard: tuple[int, int] = store.WHOLE
    pool: str | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown pool, or a pool with a shard."""
        if self.pool:
            pick(POOLS, self.pool, "pool")
            if self.shard != store.WHOLE:
                raise UsageError("`pool` shares the images out by itself; leave out `shard`")


class Stages:
    """The work on one place in one folder.

    Attributes:
        place: the images.
        folder: folder of the work.
        pairs: index pairs to match.
        note: file with the settings and results of the work.
    """

    def __init__(
        self, place: Place, folder: Path, extractor: Extractor, pairs: Pairs, how: How, more: Mapping[str, Any]
    ) -> None:
        """Open the folder.

        Args:
            place: the images.
            folder: folder of the work.
            extractor: the opened model.
            pairs: index pairs to match.
            how: settings of features and matches.
            more: other settings that the result depends on; JSON.

        Raises:
            UsageError: the folder holds work with another model, data or setting.
            BadInput: an image calibrated the model, or the database in the folder is damaged.
        """
        refuse_calibrated(extractor.artifact, (shot.picture for shot in place.shots))
        self.place, self.folder, self.pairs = place, folder, pairs
        self._extractor, self._how = extractor, how
        self._remedy = f"choose another `out`, or delete it: rm -r {folder}"
        self._groups = matches.grouped([(place.shots[i].name, place.shots[j].name) for i, j in pairs])
        listed = ledger.key({"pairs": [[i, j] for i, j in pairs]})
        identity = {**_made(extractor, how), **more, "data": place.digest, "pairs": listed}
        self.note = ledger.resume(folder / NOTE, identity, work=folder, remedy=self._remedy)
        self._refuse_database()
        if not self.note.begun:
            if any((folder / name).exists() for name in (MATCHES, DATABASE, MODEL)):
                raise UsageError(f"{folder}: holds matches or a model that this command did not make; {self._remedy}")
            self.note.write()

    def features(self, variant: Variant, threads: int, progress: Progress) -> None:
        """Extract the features of the images, or of the shard; in a pool, machines open `variant`.

        Raises:
            BadInput: an image cannot be read.
            UsageError: a pool with drawn images.
        """
        own = store.share({shot.name: shot.picture for shot in self.place.shots}, self._how.shard)
        out, top_k, count = self.folder / FEATURES, self._how.top_k, self._how.workers
        if self._how.pool:
            opener, found = variant.opener(threads), _files(own, self.place.name)
            tally = POOLS[self._how.pool](opener, found, out, "lf", top_k, progress, cpus=threads, workers=count)
        else:
            tally = store.extract_images(self._extractor, own, out, "lf", top_k, progress, workers=count)
        if tally.failed:
            raise BadInput(f"{self.place.name}: {next(iter(tally.failed.values()))}")

    def match(self, progress: Progress) -> int:
        """Match the pairs, or those of the shard; if images have no features yet, only return their number."""
        out = self.folder / FEATURES
        if lacking := sum(not Folder(LF, out).has(shot.name) for shot in self.place.shots):
            return lacking
        own = {name: self._groups[name] for name in store.share(dict.fromkeys(self._groups), self._how.shard)}
        matches.match(out, own, self.folder / MATCHES, matches.MATCHERS[self._how.matcher], progress)
        return 0

    def database(self, progress: Progress) -> Path:
        """Return the path of the verified database; make it if it is missing.

        Raises:
            BadInput: features or matches are damaged.
            UsageError: it cannot be written.
        """
        path, features = self.folder / DATABASE, Folder(LF, self.folder / FEATURES)
        if path.is_file():
            return path
        progress(0, 2, f"{self.place.name}: write {DATABASE}")
        with files.atomic(path) as temporary:
            with databases.created(temporary) as database:
                database.sql.execute(f"CREATE TABLE {MADE} (identity TEXT NOT NULL)")
                database.sql.execute(f"INSERT INTO {MADE} VALUES (?)", (json.dumps(dict(self.note.identity)),))
                ids = {}
                for shot in self.place.shots:
                    found = features.read(shot.name, (0, 0))
                    ids[shot.name] = database.add(shot.name, shot.seen(found.size))
                    database.write_keypoints(ids[shot.name], found.keypoints)
                for first, second, pair in matches.matched(self._groups, self.folder / MATCHES):
                    database.write_matches(ids[first], ids[second], pair)
            progress(1, 2, f"{self.place.name}: verify {len(self.pairs)} pairs")
            colmap.verify(temporary, self._how.threads)
        return path

    def inliers(self) -> dict[tuple[int, int], int]:
        """Return the number of verified matches of every index pair that COLMAP verified."""
        with databases.opened(self.folder / DATABASE) as database:
            ids = {image_id: name for name, image_id in database.ids().items()}
            index = {shot.name: i for i, shot in enumerate(self.place.shots)}
            return {(index[ids[a]], index[ids[b]]): count for (a, b), count in database.inliers().items()}

    def keypoints(self) -> dict[str, int]:
        """Return the number of keypoints of every image, by name."""
        with databases.opened(self.folder / DATABASE) as database:
            return {
                name: int(count)
                for name, count in database.rows("SELECT name, rows FROM images NATURAL JOIN keypoints")
            }

    def _refuse_database(self) -> None:
        """Raise if the folder has a damaged database, or the database of other work."""
        path = self.folder / DATABASE
        if not path.is_file():
            return
        made: Any = {}
        with databases.opened(databases.check(path)) as database:
            if database.rows("SELECT 1 FROM sqlite_master WHERE name = ?", MADE):
                with suppress(ValueError, IndexError):
                    made = json.loads(database.rows(f"SELECT identity FROM {MADE}")[0][0])
        if not made:
            raise UsageError(f"{path}: this command did not make this database; {self._remedy}")
        if found := ledger.differences(made, self.note.identity):
            raise ledger.refusal(path, found, self._remedy)


def _files(pictures: Mapping[str, Picture], place: str) -> dict[str, Path]:
    """Return the image files by name, for the machines of a pool.

    Raises:
        UsageError: an image has no file.
    """
    if drawn := next((name for name, picture in pictures.items() if not picture.path), None):
        raise UsageError(f"{place}: image {drawn} is drawn, and `pool` shares out image files; leave out `pool`")
    return {name: picture.path for name, picture in pictures.items() if picture.path}


def _made(extractor: Extractor, how: How) -> dict[str, Any]:
    """Return the identity of the features and matches of a model, without the images."""
    info = extractor.session.info
    return {
        "model": extractor.artifact.card.model,
        "scheme": extractor.artifact.card.scheme,
        "sha256": extractor.artifact.sha256,
        "keypoints": extractor.keypoints and extractor.keypoints.artifact.card.model,
        "size": extractor.resize,
        "engine": [info.engine, info.version, info.provider],
        "settings": dict(extractor.settings),
        "top_k": how.top_k,
        "matcher": how.matcher,
        "pycolmap": colmap.version(),
        **versions(__name__),
    }
