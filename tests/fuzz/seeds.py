"""Whole files of every format that lf reads, as small as they can be: each function fills a folder."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np

from lf.core import Card, Features
from lf.data.images import SUFFIXES
from lf.data.layouts import LAYOUTS
from lf.formats import model_file

SIDE = (48, 64)  # (H, W) px of pictures


def picture(index: int = 0) -> np.ndarray:
    """A drawn image (H, W, 3)."""
    return np.random.default_rng(index).integers(0, 256, (*SIDE, 3), np.uint8)


def features() -> Features:
    """Five points with scores and scales."""
    rng = np.random.default_rng(0)
    return Features(rng.random((5, 2)) * 40, np.arange(5, 0, -1), np.eye(5, 8), (64, 48), np.full(5, 32.0))


def images(folder: Path) -> None:
    """Write an image in every format."""
    for index, suffix in enumerate(SUFFIXES):
        cv2.imwrite(str(folder / f"{index}{suffix}"), picture()[..., 0] if suffix == ".pgm" else picture())
    cv2.imwrite(str(folder / "16.png"), picture().astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "palette.tiff"), picture()[..., 0])
    (folder / "text.ppm").write_text("P3\n# made\n16 16\n1000\n" + "500 " * 768)


def png(folder: Path) -> None:
    """Grey, colour and 16-bit PNG files."""
    cv2.imwrite(str(folder / "a.png"), picture())
    cv2.imwrite(str(folder / "b.png"), picture()[..., 0])
    cv2.imwrite(str(folder / "c.png"), picture().astype(np.uint16) * 257)


def masks(folder: Path) -> None:
    """Masks of ids, of segments, with a palette, and their tables."""
    from lf.data.masks.png import write_ids, write_palette

    ids = np.random.default_rng(0).integers(0, 3, SIDE, np.uint8)
    write_ids(folder / "ids.png", ids)
    write_palette(folder / "palette.png", ids, np.zeros((256, 3), np.uint8))
    segments = np.zeros((*SIDE, 3), np.uint8)
    segments[10:, :, 2] = 7
    cv2.imwrite(str(folder / "segments.png"), segments)
    rows = [{"id": n, "name": f"c{n}", "color": [n, 2 * n, 3]} for n in range(3)]
    (folder / "categories.json").write_text(json.dumps(rows))
    row = {"file_name": "segments.png", "image_id": 1, "segments_info": [{"id": 7, "category_id": 1, "iscrowd": 0}]}
    (folder / "panoptic.json").write_text(json.dumps({"annotations": [row, row], "categories": []}))


def homography(folder: Path) -> None:
    """A sequence in HPatches layout."""
    for index in (1, 2):
        cv2.imwrite(str(folder / f"{index}.png"), picture(index))
    (folder / "H_1_2").write_text("1.01 0.02 -3.5\n0.01 0.99 2.25\n1e-05 -2e-05 1\n")


def stored(folder: Path) -> None:
    """The features of one image in every layout with npz files, and the two kinds of pairs."""
    from lf.data.layouts.pairs import Stored, write_superpoint
    from lf.formats import npz

    for name in ("lf", "r2d2", "d2net", "posfeat"):
        with LAYOUTS[name].open(folder / name) as store:
            store.write("1.png", features())
    both, grey = features(), np.zeros(SIDE, np.float32)
    none = np.zeros(0, int)
    write_superpoint(folder / "pair-s.npz", Stored(both, both, np.eye(3), (grey, grey)), (none, none))
    arrays = {
        f"{k}{i}": v for i in "01" for k, v in {"keypoints": both.keypoints, "descriptors": both.descriptors}.items()
    }
    arrays |= {f"scores{i}": both.scores for i in "01"} | {f"image_shape{i}": np.array(SIDE) for i in "01"}
    npz.write(folder / "pair-h.npz", {**arrays, "homography": np.eye(3)})
    pose = {"K0": np.eye(3), "K1": np.eye(3), "rotation": np.eye(3), "translation": np.ones(3)}
    npz.write(folder / "pair-p.npz", {**arrays, **pose})


def hdf5(folder: Path) -> None:
    """The files of hloc and of PoSFeat."""
    for name in ("hloc", "posfeat-h5"):
        with LAYOUTS[name].open(folder / name) as store:
            store.write("1.png", features())
            store.write("2.png", features())


def database(folder: Path) -> None:
    """A COLMAP database with features and matches."""
    from lf.data import colmap
    from lf.data.colmap_cameras import guessed

    with LAYOUTS["colmap"].open(folder) as store:
        store.write("1.png", features())
        store.write("2.png", features())
    with colmap.created(folder / "plain.db") as made:
        ids = [made.add(f"{n}.png", guessed((64, 48))) for n in (1, 2)]
        for each in ids:
            made.write_keypoints(each, features().keypoints)
        made.write_matches(*ids, np.array([[0, 1], [2, 3]]))


def cameras(folder: Path) -> None:
    """Scenes with cameras in every form, and lists of pairs."""
    forms = {name: folder / name for name in ("strecha", "kitti", "caps", "txt", "bin")}
    for each in forms.values():
        (each / "images").mkdir(parents=True)
        for n in (0, 1):
            cv2.imwrite(str(each / ("" if each.name == "kitti" else "images") / f"{n}.png"), picture(n))
    K, poses = "50 0 32 0 50 24 0 0 1", [np.eye(4), np.eye(4)]
    poses[1][0, 3] = 1.5
    text = [" ".join(f"{v:g}" for v in pose.ravel()) for pose in poses]
    (forms["strecha"] / "cameras.txt").write_text("".join(f"{n}.png {K} {text[n]}\n" for n in (0, 1)))
    (forms["strecha"] / "pairs.txt").write_text("0.png 1.png\n")
    (forms["kitti"] / "cam.txt").write_text("50 0 32\n0 50 24\n0 0 1\n")
    (forms["kitti"] / "poses.txt").write_text("".join(f"{' '.join(each.split()[:12])}\n" for each in text))
    turn = "1 0 0 0 1 0 0 0 1"
    (forms["caps"] / "img_cam.txt").write_text("".join(f"{n}.png 64 48 50 50 32 24 {turn} {n} 0 0\n" for n in (0, 1)))
    (forms["txt"] / "cameras.txt").write_text("# list\n1 PINHOLE 64 48 50 50 32 24\n")
    (forms["txt"] / "images.txt").write_text("".join(f"{n} 1 0 0 0 {n} 0 0 1 {n}.png\n\n" for n in (0, 1)))
    (forms["bin"] / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 1, 1, 64, 48, 50, 50, 32, 24))
    rows = [
        struct.pack("<i7di", n, 1, 0, 0, 0, n, 0, 0, 1) + f"{n}.png\0".encode() + struct.pack("<Q", 0) for n in (0, 1)
    ]
    (forms["bin"] / "images.bin").write_bytes(struct.pack("<Q", 2) + b"".join(rows))


def pair_list(folder: Path) -> None:
    """Lists of pairs with their truth, a depth map, and the files of Aachen."""
    for n in (0, 1):
        cv2.imwrite(str(folder / f"{n}.png"), picture(n))
    K, moved = "50 0 32 0 50 24 0 0 1", "1 0 0 1.5 0 1 0 0 0 0 1 0 0 0 0 1"
    (folder / "pairs_with_gt.txt").write_text(f"0.png 1.png 0 0 {K} {K} {moved}\n1.png 0.png 0 0 {K} {K} {moved}\n")
    (folder / "pairs_calibrated.txt").write_text(f"0.png 1.png {K} {K} 1 0 0 0 1 0 0 0 1 1.5 0 0\n")
    cv2.imwrite(str(folder / "depth.png"), np.full(SIDE, 700, np.uint16))
    (folder / "list.txt").write_text("db/1.jpg SIMPLE_RADIAL 64 48 60 32 24 0.1\ndb/2.jpg PINHOLE 64 48 60 60 32 24\n")
    (folder / "model.nvm").write_text("NVM_V3\n\n2\n./a.jpg 60 1 0 0 0 1 2 3 0 0\n./b.jpg 60 1 0 0 0 3 2 1 0 0\n\n0\n")


def flow(folder: Path) -> None:
    """A pair with flow as npz, and R2D2's PNG files."""
    from lf.formats import npz

    one, shift = picture(), np.zeros((*SIDE, 2), np.float32)
    npz.write(folder / "a.npz", {"image1": one, "image2": one, "flow": shift, "mask": np.ones(SIDE, np.uint8)})
    for inner in ("optical_flow/flow", "optical_flow/mask", "images_upright/db"):
        (folder / inner).mkdir(parents=True)
    cv2.imwrite(str(folder / "optical_flow/flow/A_B.png"), np.zeros((*SIDE, 4), np.uint8))
    cv2.imwrite(str(folder / "optical_flow/mask/A_B.png"), np.full(SIDE, 255, np.uint8))
    for name in "AB":
        cv2.imwrite(str(folder / f"images_upright/db/{name}.jpg"), one)


def checkpoints(folder: Path) -> None:
    """Weights of Wren as PyTorch writes them now and wrote them before 1.6."""
    import torch

    from lf.models import checkpoint

    torch.manual_seed(0)
    state = {"state_dict": checkpoint.build("wren").state_dict(), "epoch": 3}
    torch.save(state, folder / "new.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)


def safetensors(folder: Path) -> None:
    """Weights of Wren, with a card and without."""
    import torch
    from safetensors.torch import save

    from lf.models import MODELS, checkpoint

    torch.manual_seed(0)
    net, row = checkpoint.build("wren"), MODELS["wren"]
    (folder / "public.safetensors").write_bytes(save(net.state_dict()))
    about = {"origin": "test", "sha256": "00", "licence": "none"}
    checkpoint.save(
        folder / "own.safetensors", net, Card("wren", about, (row.channels, None, None), outputs=dict(row.heads))
    )


def onnx(folder: Path) -> None:
    """A network of a convolution for each head, with a card."""
    import onnx_files

    model_file.save(folder / "m.onnx", *onnx_files.heads("wren", (48, 64)))


def foreign_onnx(folder: Path) -> None:
    """The same without a card, and a card in TOML of a network in no table."""
    import onnx_files

    (folder / "m.onnx").write_bytes(onnx_files.heads("wren", (48, 64))[0])
    text = 'name = "own"\nchannels = 1\n[detector]\npart = "grid65"\nthreshold = 0.01\n[descriptor]\nlength = 64\n'
    (folder / "net.toml").write_text(text + 'stride = 8\n[outputs]\ndetector = "detector"\n')


def tflite(folder: Path) -> None:
    """A quantized and a float network of a convolution for each head."""
    import tflite_files

    for name, floats in (("q.tflite", False), ("f.tflite", True)):
        tflite_files.save(folder / name, tflite_files.heads("wren", (48, 64), floats)[0], "wren", (48, 64))


def plans(folder: Path) -> None:
    """A plan of a sweep, and gates."""
    shutil.copy(Path(__file__).parents[1] / "baselines" / "gates.toml", folder / "gates.toml")
    (folder / "plan.toml").write_text(
        'backend = "opencv-dnn"\nthreads = 1\nrepeats = 0\nschemes = []\n\n[[data]]\nname = "drawn"\n'
        'root = "procedural:2"\nprotocols = ["kp2d-fixed"]\n\n[[model]]\nfile = "sift"\n\n'
        "[goals]\nrepeatability = 0.005\n"
    )


def results(folder: Path) -> None:
    """The results of the baseline, cut down to three pairs of one run."""
    text = (Path(__file__).parents[1] / "baselines" / "default.json").read_text()
    whole = json.loads(text)
    runs = [{**run, "pairs": run["pairs"][:12]} for run in whole["runs"][:2]]
    for name in ("a.json", "b.json"):
        (folder / name).write_text(json.dumps({**whole, "runs": runs}))


def ledgers(folder: Path) -> None:
    """A ledger, the journal of a search, and kept features of a benchmark."""
    from lf.core import ledger

    ledger.Ledger(folder / "work.json", {"seed": 1, "files": ["a", "b"], "versions": {"lf": "1"}}).write(rows={"a": 1})
    arrays = {"keypoints": features().keypoints, "scores": features().scores, "descriptors": features().descriptors}
    np.savez(folder / "kept.npz", **arrays, size=np.array([64, 48]), native=np.array([48, 64]))


def archive(folder: Path) -> None:
    """A data set as it is downloaded."""
    import zipfile

    with zipfile.ZipFile(folder / "set.zip.part", "w", zipfile.ZIP_DEFLATED) as made:
        for n in (1, 2):
            made.writestr(f"release/v_boat/{n}.ppm", b"P6 16 16 255\n" + bytes(768))
        made.writestr("release/v_boat/H_1_2", "1 0 0 0 1 0 0 0 1")


def videos(folder: Path) -> None:
    """Videos of two containers."""
    for name, kind in (("a.avi", "MJPG"), ("b.mp4", "mp4v")):
        out = cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*kind), 10, (64, 48))
        for n in range(4):
            out.write(picture(n))
        out.release()


def state(folder: Path) -> None:
    """The checkpoint of a training run."""
    import torch

    from lf.train import RECIPES
    from lf.train.state import CHECKPOINT, identity

    weights = {"a.weight": torch.zeros(4, 4)}
    owner = json.dumps(identity(RECIPES["wren"], ["procedural"]))
    torch.save({"identity": owner, "step": 3, "network": weights, "optimiser": {"state": {}}}, folder / CHECKPOINT)


def labels(folder: Path) -> None:
    """Labels of a photo."""
    from lf.formats import npz

    (folder / "manifest.json").write_text("{}")
    npz.write(folder / "1.png.npz", {"points": np.ones((3, 3), np.float32), "sha256": np.array("00" * 32)})


def compiler_log(folder: Path) -> None:
    """Write an output of the Edge TPU compiler."""
    (folder / "log.txt").write_text(
        "Edge TPU Compiler version 16.0.384591198\n\nModel compiled successfully in 30 ms.\n\n"
        "On-chip memory used for caching model parameters: 1.50MiB\nOff-chip memory used: 0.00B\n"
        "Number of Edge TPU subgraphs: 1\nTotal number of operations: 3\n\n"
        "Operator                       Count      Status\n\n"
        "CONV_2D                        2          Mapped to Edge TPU\n"
        "SOFTMAX                        1          More than one subgraph is not supported\n"
    )
