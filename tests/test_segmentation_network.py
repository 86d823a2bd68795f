"""Segmentation on SuperPoint: network, checkpoints of the fork, cards, export, masks of images."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lf.core import BadInput, Card, Segmentation, UsageError
from lf.data.masks.png import read_ids
from lf.extraction import segmentation
from lf.extraction.extractor import Extractor
from lf.formats import model_file
from lf.models import MODELS, checkpoint, row_of
from lf.models.resolve import resolve
from lf.models.superpoint import network as superpoint

ROWS = [name for name, row in MODELS.items() if row.per_class]
COUNTED = [  # row, classes, parameters: counted in the fork's own networks, those of the small one here
    *(("superpoint-seg", 4, 2_142_087), ("superpoint-seg", 34, 2_145_957), ("superpoint-seg", 133, 2_158_728)),
    *(("superpoint-seg-refine", 4, 2_174_535), ("superpoint-seg-refine", 34, 2_176_485)),
    *(("superpoint-seg-refine", 133, 2_182_920), ("superpoint-small-seg", 34, 560_453)),
]
TABLE = (("sky", (128, 128, 128)), ("road", (128, 64, 128)), ("car", (64, 0, 128)))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def trained(name, classes):
    """A network with batch statistics from some data."""
    net = MODELS[name].for_classes(classes).build()
    with torch.no_grad():
        for value in net.parameters():
            if value.ndim == 1:
                value.add_(0.1 * torch.randn_like(value))
        net.train()(torch.rand(2, 1, 32, 48))
    return net.eval()


def saved(folder, name="superpoint-small-seg", table=TABLE):
    row = MODELS[name].for_classes(len(table))
    card = Card(name, {"origin": "test"}, (1, None, None), outputs=dict(row.heads), classes=table)
    return checkpoint.save(folder / f"{name}.safetensors", trained(name, len(table)), card)


# --- the network


@pytest.mark.parametrize(("name", "classes", "parameters"), COUNTED)
def test_the_network_has_as_many_parameters_as_the_forks(name, classes, parameters):
    row = MODELS[name].for_classes(classes)
    assert sum(value.numel() for value in row.build().parameters()) == row.parameters == parameters


@pytest.mark.parametrize("name", ROWS)
def test_the_folded_network_is_the_same(name):
    net = trained(name, 5)
    image = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        plain = net(image)[2]
        net.segmentation.fold()
        folded = net.eval()(image)[2]
    stride = MODELS[name].heads["segmentation"][1]
    assert plain.shape == (1, 5, 64 // stride, 96 // stride)
    assert float(plain.std()) > 1e-3
    assert float((folded - plain).abs().max()) < 1e-6


@pytest.mark.parametrize("name", ROWS)
def test_the_keypoints_are_those_of_the_network_without_segmentation(name):
    net, parent = trained(name, 5), MODELS[MODELS[name].parent].build().eval()
    missing = parent.load_state_dict(net.state_dict(), strict=False)
    assert not missing.missing_keys
    assert all(key.startswith("segmentation.") for key in missing.unexpected_keys)
    image = torch.rand(1, 1, 32, 48)
    for own, other in zip(net(image)[:2], parent(image), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)


# --- checkpoints

FORK = {"superpoint-seg": superpoint._fork, "superpoint-seg-refine": superpoint._fork_refined}


@pytest.mark.parametrize("name", FORK)
@pytest.mark.parametrize("classes", [1, 4, 34])
def test_checkpoints_of_the_fork_are_recognised_with_their_classes(tmp_path, name, classes):
    net = trained(name, classes)
    public = {FORK[name](own): value for own, value in net.state_dict().items()}
    torch.save({"n_iter": 3, "model_state_dict": public}, tmp_path / "superPointNet_3_checkpoint.pth.tar")
    found = resolve(tmp_path / "superPointNet_3_checkpoint.pth.tar")
    assert (found.card.model, found.card.outputs["segmentation"][0]) == (name, classes)
    assert row_of(found.card).parameters == sum(value.numel() for value in net.parameters())
    for own, value in checkpoint.network(found).state_dict().items():
        assert torch.equal(value, net.state_dict()[own])


def test_the_names_of_the_fork():
    public = [superpoint._fork(own) for own in MODELS["superpoint-seg"].build().state_dict()]
    for name in ("seg_aspp.blocks.3.1.running_var", "seg_aspp.global_pool.1.weight", "seg_aspp.project.1.bias"):
        assert name in public
    assert {"seg_head.0.bias", "seg_head.1.weight", "seg_head.3.weight", "inc.conv.conv.0.weight"} < set(public)
    refined = [superpoint._fork_refined(own) for own in MODELS["superpoint-seg-refine"].build().state_dict()]
    assert {"seg_up.bias", "seg_fuse.0.weight", "seg_fuse.4.running_mean", "seg_head.weight"} < set(refined)


def test_group_normalisation_is_named(tmp_path):
    net = trained("superpoint-seg-refine", 4).state_dict()
    public = {superpoint._fork_refined(own): value for own, value in net.items() if "running" not in own}
    torch.save(public, tmp_path / "it.pth")
    with pytest.raises(BadInput, match="group normalisation in its ASPP; expected batch normalisation"):
        resolve(tmp_path / "it.pth")


def test_weights_of_other_classes_than_the_card_says_are_refused(tmp_path):
    own = saved(tmp_path)
    card = json.loads(own.card.to_json())
    card["classes"], card["outputs"]["segmentation"] = [], [7, 8]
    wrong = model_file.save(tmp_path / "wrong.safetensors", own.path.read_bytes(), Card.from_json(json.dumps(card), ""))
    with pytest.raises(BadInput, match="holds weights for 3 classes, its card says 7"):
        checkpoint.network(wrong)


# --- the card


def test_a_card_keeps_the_class_table(tmp_path):
    card = saved(tmp_path).card
    assert card.schema == 2  # an older lf would pass over the table
    assert resolve(tmp_path / "superpoint-small-seg.safetensors").card == card
    assert Card.from_json(card.to_json(), "it").classes == TABLE


@pytest.mark.parametrize(
    "table", [[["sky", [1, 2]]], [["sky", [1, 2, 256]]], [[3, [1, 2, 3]]], [["sky", [1, 2, 3]]], "sky", [None]]
)
def test_a_damaged_class_table_is_refused(tmp_path, table):
    text = json.dumps({**json.loads(saved(tmp_path).card.to_json()), "classes": table})
    with pytest.raises(BadInput, match="it: its embedded card is damaged"):
        Card.from_json(text, "it")


# --- masks of images


def test_classes_are_those_of_bilinear_logits():
    logits = np.random.default_rng(0).standard_normal((5, 6, 9), np.float32)
    mask = segmentation.classes(Segmentation(logits, (48, 72)), (51, 79))
    sized = F.interpolate(torch.from_numpy(logits)[None], (48, 72), mode="bilinear", align_corners=False)[0]
    assert mask.shape == (51, 79)
    np.testing.assert_array_equal(mask[:48, :72], sized.argmax(0).numpy())
    np.testing.assert_array_equal(mask[48:, :72], np.tile(mask[47, :72], (3, 1)))
    np.testing.assert_array_equal(mask[:, 72:], np.tile(mask[:, 71:72], (1, 7)))


def test_more_classes_than_a_mask_holds_are_refused():
    with pytest.raises(UsageError, match="257 classes; expected at most 256"):
        segmentation.classes(Segmentation(np.zeros((257, 1, 1), np.float32), (8, 8)), (8, 8))


def test_extract_writes_palette_masks(lf, tmp_path, drawn_photos):
    model = saved(tmp_path)
    out = tmp_path / "out"
    assert lf("extract", model.path, drawn_photos, "--out", out, "--maps", "segmentation")[0] == 0
    seen = Extractor(model, "torch", segmentation=True)
    for photo in sorted(drawn_photos.glob("*.png")):
        image = cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB)
        found = seen(image).segmentation
        ids = read_ids(out / f"{photo.name}.seg.png")
        np.testing.assert_array_equal(ids, segmentation.classes(found, image.shape[:2]))
        drawn = cv2.imread(str(out / f"{photo.name}.seg.png"))[..., ::-1]
        np.testing.assert_array_equal(drawn, np.array([colour for _, colour in TABLE], np.uint8)[ids])
    code, _, said = lf("extract", model.path, drawn_photos, "--out", out)
    assert code == 2
    assert "was made with other settings" in said


def test_the_superpoint_layout_has_the_mask_of_the_first_image(lf, tmp_path, drawn_photos):
    model = saved(tmp_path)
    words = ("--layout", "superpoint", "--maps", "segmentation")
    assert lf("extract", model.path, f"warps:{drawn_photos}", "--out", tmp_path / "out", *words)[0] == 0
    stored = np.load(tmp_path / "out" / "0.npz")
    mask = stored["pred_mask"]
    assert (mask.shape, mask.dtype) == ((240 // 8, 320 // 8), np.int64)
    image = stored["image"]
    logits = Extractor(model, "torch", segmentation=True)(image).segmentation.logits
    np.testing.assert_array_equal(mask, logits.argmax(0))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("wren", "--maps", "segmentation"), "wren has no segmentation; expected a file of superpoint-seg, "),
        (("wren", "--maps", "segments"), "unknown map 'segments'; did you mean 'segmentation'?"),
    ],
)
def test_what_has_no_segmentation_is_refused(lf, tmp_path, drawn_photos, words, said):
    code, _, text = lf("extract", words[0], drawn_photos, "--out", tmp_path / "out", *words[1:])
    assert (code, said in text) == (2, True), text
    assert not (tmp_path / "out").exists()


def test_classes_without_a_table_have_colours_far_apart():
    card = Card("superpoint-seg", {}, (1, None, None), outputs={"segmentation": (12, 8)})
    colours = segmentation.palette(card).astype(int)
    assert len({tuple(colour) for colour in colours.tolist()}) == 12
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(12, dtype=int)
    assert apart.min() > 30


# --- other formats


@pytest.mark.parametrize("name", ["superpoint-seg-refine", "superpoint-small-seg"])
def test_exports_fold_the_pooled_branch(network, name):
    """The file was compared with the network when it was made; here is what is in it."""
    onnx = pytest.importorskip("onnx")
    made = network(name)
    graph = onnx.load(made.path).graph
    assert [output.name for output in graph.output] == ["detector", "descriptor", "segmentation"]
    assert made.card.made[-1].parity["heads"]["segmentation"]["max_rel"] < 1e-5
    kinds = {node.op_type for node in graph.node}
    assert not kinds & {"Resize", "Expand", "ConvTranspose", "ArgMax", "BatchNormalization", "Softmax"}
    (join,) = (node for node in graph.node if node.op_type == "Sub")
    assert {node.name for node in graph.node if node.output[0] in join.input} == {
        "segmentation.project.conv",
        "segmentation.project.pooled",
    }


def test_the_way_to_tflite_knows_reductions(network):
    """Operator set 17 has no attribute noop_with_empty_axes, which a conversion down keeps."""
    onnx = pytest.importorskip("onnx")
    from lf.formats import onnx_model, onnx_to_tflite

    graph = onnx_to_tflite.static(onnx_model.read(network("superpoint-small-seg").path), (64, 96))
    assert onnx_to_tflite.opset(graph) == 17
    onnx.checker.check_model(graph, full_check=True)


def test_quantized_segmentation_is_close(network, drawn_photos, tmp_path):
    pytest.importorskip("onnxscript")
    from lf.quantize import quantize

    small = quantize(
        network("superpoint-small-seg", loud=True), "w8a8", drawn_photos, tmp_path / "small.onnx", rounding="nearest"
    )
    step = small.card.made[-1]
    assert step.parity["sqnr_db"]["segmentation"] > 20
    assert step.kept_float == ["detector.b.conv"]
    assert step.integer_convolutions == 20
