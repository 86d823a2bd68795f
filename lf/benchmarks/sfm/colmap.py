"""COLMAP: verify matches, map, triangulate, register. Only this file imports pycolmap."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lf.core import Array, LfError, Unavailable, console, one_line
from lf.core.packages import pip
from lf.data import colmap as database_file

SEED = 0
THREADS = 1  # threads of mapping: the number changes COLMAP's model by parts of a percent
LEAST = 15  # least number of verified matches of a pair for COLMAP
ERRORS_ONLY = 2  # of the levels of COLMAP's log
REGISTERED = 10_000.0  # px: COLMAP marks errors that it has not computed by huge values


@dataclass(frozen=True)
class Placed:
    """A registered image.

    Attributes:
        pose: (3, 4) float64, world to camera.
        observations: number of its keypoints with a 3D point of the model.
        track_length: mean number of images with these points; None without points.
        reprojection_error: mean error of these points, px; None without points.
    """

    pose: Array
    observations: int
    track_length: float | None
    reprojection_error: float | None


@dataclass(frozen=True)
class Model:
    """A reconstruction; empty if COLMAP found none.

    Attributes:
        images: name -> registered image.
        points: number of sparse points.
        observations: number of keypoints with a point.
        track_length: observations per point; None without points.
        reprojection_error: mean over the points, px; None without points.
        models: number of separate models that COLMAP made; this model has the most registered images.
    """

    images: Mapping[str, Placed] = field(default_factory=dict)
    points: int = 0
    observations: int = 0
    track_length: float | None = None
    reprojection_error: float | None = None
    models: int = 0


def version() -> str:
    """Return the version of pycolmap.

    Raises:
        Unavailable: it is not installed.
    """
    return str(_pycolmap().__version__)


def verify(path: Path, threads: int) -> None:
    """Verify the matches of the database at `path` geometrically; its two-view geometries are written.

    Raises:
        LfError: COLMAP refuses the database.
    """
    colmap = _pycolmap()
    options = colmap.TwoViewGeometryOptions()
    options.ransac.random_seed = SEED
    with _calling(path):
        colmap.geometric_verification(
            os.fspath(path),
            verifier_options=colmap.GeometricVerifierOptions(num_threads=threads),
            two_view_geometry_options=options,
        )


def reconstruct(path: Path, out: Path, refine: bool) -> Model:
    """Map the verified database at `path` incrementally, and write the largest model as text.

    Args:
        path: the database.
        out: an empty folder for COLMAP's models; the text model is written into it.
        refine: True refines focal length and distortion of every camera; False fixes all intrinsics.

    Raises:
        LfError: COLMAP refuses the database.
    """
    colmap = _pycolmap()
    found: Any = {}
    with _calling(path):
        if _matched(path):
            own = out / "colmap"
            own.mkdir()
            found = colmap.incremental_mapping(
                os.fspath(path), os.fspath(out), os.fspath(own), _options(colmap, refine)
            )
    if not found:
        return Model()
    best = max(found.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
    best.write_text(os.fspath(out))
    return _model(best, len(found))


def triangulate(
    path: Path, poses: Mapping[str, Array], queries: Sequence[str], out: Path
) -> tuple[Model, dict[str, Placed | None]]:
    """Triangulate points from images with known poses, then register the queries; all intrinsics are fixed.

    Args:
        path: the verified database.
        poses: name -> (3, 4) world to camera, of images with known poses.
        queries: names of the images to register, in this order.
        out: an empty folder; the text model of the known images is written into it.

    Returns:
        The model of the known images, and for each query its registered image, or None if it was not registered.

    Raises:
        LfError: COLMAP refuses the database.
    """
    colmap = _pycolmap()
    matched = _matched(path)
    placed: dict[str, Placed | None] = dict.fromkeys(queries)
    if not matched & poses.keys():
        return Model(), placed
    with _calling(path), colmap.Database.open(os.fspath(path)) as database:
        empty = _posed(colmap, database, {name: poses[name] for name in poses if name in matched})
        options = _options(colmap, refine=False)
        model = colmap.triangulate_points(
            empty, os.fspath(path), os.fspath(out), os.fspath(out), clear_points=True, options=options
        )
        model.write_text(os.fspath(out))
        known = _model(model, 1)
        ids = {image.name: image.image_id for image in database.read_all_images()}
        mapper = colmap.IncrementalMapper(
            colmap.DatabaseCache.create(database, colmap.DatabaseCacheOptions(min_num_matches=LEAST))
        )
        mapper.begin_reconstruction(model)
        for name in queries:
            if name in matched and known.points and mapper.register_next_image(options.mapper, ids[name]):
                placed[name] = _placed(model, model.image(ids[name]))
        mapper.end_reconstruction(False)
    return known, placed


def _posed(colmap: Any, database: Any, poses: Mapping[str, Array]) -> Any:
    """Make a model of the known images without points, with the cameras of the database."""
    model = colmap.Reconstruction()
    cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
    for camera in cameras.values():
        model.add_camera_with_trivial_rig(camera)
    for image in database.read_all_images():
        if image.name in poses:
            pose = colmap.Rigid3d(np.asarray(poses[image.name], np.float64)[:3])
            bare = colmap.Image(image_id=image.image_id, camera_id=image.camera_id, name=image.name)
            model.add_image_with_trivial_frame(bare, pose)
    return model


def _options(colmap: Any, refine: bool) -> Any:
    """Return options of mapping, triangulation and registration: seeded, with refined or fixed intrinsics."""
    options = colmap.IncrementalPipelineOptions()
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = SEED
    options.num_threads = options.mapper.num_threads = THREADS
    options.extract_colors = False
    options.ba_refine_focal_length = options.ba_refine_extra_params = refine
    options.mapper.abs_pose_refine_focal_length = options.mapper.abs_pose_refine_extra_params = refine
    return options


def _model(found: Any, models: int) -> Model:
    found.update_point_3d_errors()
    points = found.num_points3D()
    return Model(
        {found.image(key).name: _placed(found, found.image(key)) for key in sorted(found.reg_image_ids())},
        points,
        found.compute_num_observations(),
        found.compute_mean_track_length() if points else None,
        found.compute_mean_reprojection_error() if points else None,
        models,
    )


def _placed(model: Any, image: Any) -> Placed:
    seen = [model.point3D(point.point3D_id) for point in image.get_observation_points2D()]
    lengths = [point.track.length() for point in seen]
    errors = [point.error for point in seen if 0 <= point.error < REGISTERED]
    return Placed(
        np.ascontiguousarray(image.cam_from_world().matrix()),
        len(seen),
        float(np.mean(lengths)) if lengths else None,
        float(np.mean(errors)) if errors else None,
    )


def _matched(path: Path) -> set[str]:
    """Return names of images with enough verified matches: COLMAP stops at a posed image without matches."""
    with database_file.opened(path) as database:
        enough = {key for pair, count in database.inliers().items() if count >= LEAST for key in pair}
        return {name for name, key in database.ids().items() if key in enough}


@contextmanager
def _calling(path: Path) -> Iterator[None]:
    """Suppress COLMAP's output, convert its errors to one line, and remove files beside the database."""
    try:
        with console.quiet():
            yield
        database_file.seal(path)
    except LfError:
        raise
    except (ValueError, RuntimeError, IndexError, KeyError) as error:
        raise LfError(f"{path}: COLMAP failed ({one_line(error, 200)}); delete it and run the command again") from error


def _pycolmap() -> Any:
    """Import pycolmap after zlib: otherwise versions 4.1.1 to 4.2.1 corrupt the memory of later compressions.

    Raises:
        Unavailable: it is not installed.
    """
    import zlib  # noqa: F401

    try:
        ends = signal.getsignal(signal.SIGTERM)
        import pycolmap

        if ends is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ends)  # pycolmap prints a stack trace when it is terminated
    except ImportError as error:
        raise Unavailable(f"reconstruction needs the package pycolmap; type: {pip('sfm')}") from error
    pycolmap.logging.minloglevel = ERRORS_ONLY
    return pycolmap
