"""RECIPES: one frozen dataclass per training run."""

from __future__ import annotations

import dataclasses
from typing import Any

from lf.train import posed_recipes
from lf.train.published import JOINT, KP2D, LABELLED, PUBLISHED_JOINT, R2D2, SEGMENTATION, SWIFT
from lf.train.recipe import CHOICES as CHOICES
from lf.train.recipe import PLAIN
from lf.train.recipe import Recipe as Recipe
from lf.train.recipe import show as show


def _kp2d(model: str, size: tuple[int, int], about: str, **changes: Any) -> Recipe:
    """Make a published recipe of KP2D: 50 epochs of 118,000 photos, batches of 8, learning rate halved after 40."""
    return Recipe(
        model=model,
        method="kp2d",
        about=about,
        steps=740_000,
        batch=8,
        size=size,
        lr=1e-3,
        decay_steps=(592_000,),
        weight_decay=0.0,
        pictures=0,
        seed=42,
        settings={**KP2D, **changes},
        **{**PLAIN, "schedule": "step"},
    )


def _published(model: str, method: str, about: str, **changes: Any) -> Recipe:
    """Make a recipe of one of SuperPoint's training stages: Adam without weight decay, schedule or clipping."""
    own = {"steps": 200_000, "size": (240, 320), "batch": 8, "lr": 1e-4, "pictures": 0, **changes}
    return Recipe(model=model, method=method, about=about, weight_decay=0.0, **PLAIN, **own)


def _tiny(model: str, about: str, **changes: Any) -> Recipe:
    """Make the published recipe of KP2Dtiny. Its code states this schedule, but does not follow it."""
    settings = {"descriptor_weight": 2.0, "max_angle": 90.0, "jitter": (0.0, 0.5, 0.2, 0.05), **changes}
    published = _kp2d(model, (88, 88), about, **settings)
    return dataclasses.replace(published, steps=37_000, batch=32, decay_steps=(18_500,), picture_size=176)


def _short(model: str, steps: int, about: str, lr: float = 1.5e-3) -> Recipe:
    """Make a recipe of KP2D's method for one core: small images, and the descriptor loss that learns fastest there."""
    return Recipe(
        model=model,
        method="kp2d",
        about=about,
        steps=steps,
        batch=4,
        size=(120, 160),
        lr=lr,
        settings={**KP2D, "descriptor_loss": "dual-softmax", "points": 256, "io_points": 150},
    )


def _swift(model: str, steps: int, about: str) -> Recipe:
    return Recipe(
        model=model,
        method="swift",
        about=about,
        steps=steps,
        batch=8,
        size=(160, 160),
        lr=3e-3,
        ema=0.999,
        settings=SWIFT,
    )


def _r2d2(model: str, about: str, **changes: Any) -> Recipe:
    return Recipe(
        model=model,
        method="r2d2",
        about=about,
        steps=50_000,
        batch=8,
        size=(192, 192),
        lr=1e-4,
        weight_decay=5e-4,
        pictures=4_000,
        picture_size=512,
        settings={**R2D2, **changes},
        **PLAIN,
    )


RECIPES: dict[str, Recipe] = {
    "swift": _swift("swift", 10_000, "the default network, precise positions: an hour and a half of one core"),
    "swift-tiny": _swift("swift-tiny", 10_000, "swift with 54 thousand parameters: three quarters of an hour"),
    "swift-large": _swift("swift-large", 20_000, "swift with 1.3 million parameters: hours"),
    "wren": Recipe(
        model="wren",
        method="superpoint",
        about="for int8 on small CPUs, from drawn images: an hour of one core",
        steps=12_000,
        batch=8,
        size=(160, 160),
        lr=2e-3,
        settings=JOINT,
    ),
    "superpoint-small": Recipe(
        model="superpoint-small",
        method="superpoint",
        about="SuperPoint with batch norm and half the width: an hour and a quarter of one core",
        steps=9_000,
        batch=8,
        size=(160, 160),
        lr=2e-3,
        settings=JOINT,
    ),
    "magicpoint": _published(
        "superpoint-bn",
        "magicpoint",
        "stage 1 of SuperPoint, published: detector, from synthetic shapes",
        batch=64,
        size=(120, 160),
        lr=1e-3,
        pictures=66_000,
        picture_size=160,
        data="shapes",
        settings={"detector_loss": "categorical", "corner_labels": "soft"},
    ),
    "magicpoint-small": Recipe(
        model="superpoint-small",
        method="magicpoint",
        about="stage 1 at half the width: twenty minutes of one core",
        steps=3_000,
        batch=16,
        size=(120, 160),
        lr=2e-3,
        pictures=6_000,
        picture_size=160,
        data="shapes",
        settings={"detector_loss": "categorical", "corner_labels": "soft"},
    ),
    "superpoint": _published(
        "superpoint",
        "superpoint",
        "stage 3 of the paper: both heads, from labels that lf label makes with a MagicPoint",
        batch=32,
        lr=1e-3,
        settings={
            **PUBLISHED_JOINT,
            "detector_loss": "categorical",
            "corner_labels": "drawn",
            "descriptor_loss": "dense",
            "descriptor_weight": 1e-4,
        },
    ),
    "superpoint-bn": _published(
        "superpoint-bn",
        "superpoint",
        "stage 3 of pytorch-superpoint: batch norm, sparse descriptor loss",
        settings=PUBLISHED_JOINT,
    ),
    "superpoint-seg": _published(
        "superpoint-seg",
        "superpoint_seg",
        "segmentation on SuperPoint, first version of its fork; from labelled images, photos=masks:DIR",
        steps=170_000,
        data=LABELLED,
        settings={**PUBLISHED_JOINT, **SEGMENTATION},
    ),
    "superpoint-seg-refine": _published(
        "superpoint-seg-refine",
        "superpoint_seg",
        "segmentation at stride 4, later version of the fork",
        steps=100_000,
        batch=16,
        data=LABELLED,
        settings={
            **PUBLISHED_JOINT,
            **SEGMENTATION,
            "points": 500,
            "segmentation_loss": "dice-fork",
            "segmentation_weight": 0.5,
        },
    ),
    "superpoint-small-seg": Recipe(
        model="superpoint-small-seg",
        method="superpoint_seg",
        about="segmentation head on the shipped superpoint-small: a quarter of an hour of one core",
        steps=1_200,
        batch=4,
        size=(176, 240),
        lr=2e-3,
        pictures=0,
        init="superpoint-small",
        data=LABELLED,
        settings={
            **JOINT,
            "relabel": (0.0,),
            "view_pairs": "published",
            **SEGMENTATION,
            "trunk": "frozen",
            "keypoints": "parent",
        },
    ),
    "kp2d": _kp2d("kp2d", (240, 320), "KP2D v4, published: 50 epochs of COCO"),
    "kp2d-v3": _kp2d("kp2d", (240, 320), "v3: without a descriptor loss", descriptor=False),
    "kp2d-v2": _kp2d("kp2d", (240, 320), "v2: without IO-Net", io=False),
    "kp2d-v1": _kp2d("kp2d-v1", (240, 320), "v1: and without upsampling", io=False),
    "kp2d-v0": _kp2d("kp2d-v0", (240, 320), "v0: and points that stay in their cells", io=False),
    "kp2d-resnet": _kp2d("kp2d-resnet", (256, 320), "the same on ResNet-18"),
    "kp2dtiny-s": _tiny("kp2dtiny-s", "KP2DtinyS, published for 88x88", io_points=150),
    "kp2dtiny-f": _tiny("kp2dtiny-f", "KP2DtinyF, published for 88x88", io_points=50),
    "kp2dtiny-f-coral": _tiny("kp2dtiny-f-coral", "KP2DtinyF for the Edge TPU, published for 88x88", io_points=50),
    "kp2dtiny-s-coral": _short("kp2dtiny-s-coral", 10_000, "KP2DtinyS for the Edge TPU: an hour of one core"),
    "kp2dtiny-f-small": _short("kp2dtiny-f-coral", 6_000, "KP2DtinyF for the Edge TPU: an hour of one core"),
    "kp2dtiny-baseline-small": _short(  # at the learning rate of the others its shifts saturate and stop learning
        "kp2dtiny-baseline", 3_300, "KP2D's network without dropout: an hour of one core", lr=3e-4
    ),
    "distil": Recipe(
        model="superpoint-small",
        method="distil",
        about="any network in few bits, distilled from its float weights: init=CHECKPOINT weight_bits=3",
        steps=800,
        batch=8,
        size=(160, 160),
        lr=2e-4,
        optimiser="adam",
        weight_decay=0.0,
        warmup=20,
        bf16=False,
        init="superpoint-small",
        weight_bits=4,
        activation_bits=8,
        settings={"descriptor_weight": 1.0},
    ),
    "superpoint-liteml": _published(
        "superpoint-bn",
        "superpoint",
        "the QAT configuration of LiteML: w4a8 in 800 steps of stage 3, from init=CHECKPOINT",
        steps=800,
        batch=32,
        settings=PUBLISHED_JOINT,
        weight_bits=4,
        activation_bits=8,
    ),
    "r2d2": _r2d2("r2d2", "R2D2 N16, published: 25 epochs of 16,010 pairs"),
    "r2d2-big": _r2d2("r2d2-big", "R2D2 N8 big, published", window=8),
    "r2d2-fast": dataclasses.replace(
        _r2d2(
            "fast-r2d2",
            "Fast-R2D2, 5 epochs: fine-tune published weights with init=FILE repeat_loss=dice",
        ),
        steps=13_340,
        batch=6,
    ),
    **posed_recipes.ROWS,
}
