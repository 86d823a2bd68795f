"""The open SuperPoint, which normalises after its ReLUs: its public names, its maps restated, its export."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from test_models import conv, fill, norm
from torch.nn import functional as F

from lf.core import BadInput
from lf.models import MODELS, checkpoint
from lf.models.resolve import resolve
from lf.models.superpoint.network import Scaled

NAME = "superpoint-open"
TRUNK = ((1, 64), (64, 64), (64, 128), (128, 128))
HEADS = {"detector": 65, "descriptor": 256}


def shapes():
    """The public names and shapes."""
    found = {}
    for index, (inputs, outputs) in enumerate(TRUNK):
        for half, channels in ((0, inputs), (1, outputs)):
            name = f"backbone.{index}.{half}"
            found |= conv(f"{name}.conv", outputs, channels, 3) | norm(f"{name}.bn", outputs)
    for name, outputs in HEADS.items():
        found |= conv(f"{name}.0.conv", 256, 128, 3) | norm(f"{name}.0.bn", 256)
        found |= conv(f"{name}.1.conv", outputs, 256, 1) | norm(f"{name}.1.bn", outputs)
    return found


def published(image, state):
    """Raw maps, straight from the public names."""

    def layer(x, name, relu=True):
        weight = state[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, state[f"{name}.conv.bias"], padding=weight.shape[-1] // 2)
        x = x.relu() if relu else x
        own = (state[f"{name}.bn.{each}"] for each in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *own, eps=1e-3)

    x = image
    for index in range(4):
        x = layer(layer(x, f"backbone.{index}.0"), f"backbone.{index}.1")
        x = F.max_pool2d(x, 2) if index < 3 else x
    return tuple(layer(layer(x, f"{head}.0"), f"{head}.1", relu=False) for head in HEADS)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_public_file_gives_the_published_maps(prefix, tmp_path):
    torch.manual_seed(0)
    state = fill(shapes())
    assert len(state) == 24 + 12 * 5
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "it.pth")
    artifact = resolve(tmp_path / "it.pth")
    assert (artifact.card.model, artifact.card.weights["licence"]) == (NAME, "MIT")
    network = checkpoint.network(artifact)
    assert sum(p.numel() for p in network.parameters()) == MODELS[NAME].parameters == 1_304_067
    image = torch.rand(1, 1, 32, 48)
    with torch.inference_mode():
        for ours, theirs in zip(network(image), published(image, state), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_missing_tensor_is_named(tmp_path):
    state = fill(shapes())
    del state["backbone.2.0.bn.running_var"]
    torch.save(state, tmp_path / "it.pth")
    with pytest.raises(BadInput, match=rf"looks like {NAME} but backbone.2.0.bn.running_var is missing; expected"):
        resolve(tmp_path / "it.pth")


@pytest.mark.parametrize("name", [NAME, "superpoint-bn"])
def test_our_own_names_tell_it_from_its_twin(name, tmp_path):
    torch.save(checkpoint.build(name).state_dict(), tmp_path / "it.pth")
    assert resolve(tmp_path / "it.pth").card.model == name


@pytest.mark.parametrize("training", [True, False])
def test_a_product_and_a_sum_are_batch_normalisation(training):
    torch.manual_seed(0)
    ours, theirs = Scaled(3, eps=1e-3), torch.nn.BatchNorm2d(3, eps=1e-3)
    for module in (ours, theirs):
        module.load_state_dict({**module.state_dict(), "running_var": torch.tensor([0.5, 1, 2])})
        module.train(training)
    pictures = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(ours(pictures), theirs(pictures))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)


def test_its_export_has_plain_operators(network):
    onnx = pytest.importorskip("onnx")
    found = Counter(node.op_type for node in onnx.load(network(NAME).path).graph.node)
    assert found == {"Conv": 12, "Relu": 10, "Mul": 10, "Add": 10, "MaxPool": 3}
