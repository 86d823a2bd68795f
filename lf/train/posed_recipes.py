"""Recipes that train from camera poses: both stages of PoSFeat."""

from __future__ import annotations

from typing import Any

from lf.train.recipe import PLAIN, Recipe

_POSED = {"temperature": 60.0, "jitter": (1.0, 1.0, 1.0, 0.4), "light": 0.0, "max_turn": 80.0, "most_pairs": 5_000}
_LINES = {"cell": 16, "line_steps": 100, "search_window": 0.1, "anchor_noise": 0.0707, "mask": 0.1}
_REWARD = {"batch_loss": "per_pair", "penalty": 0.001}
# Descriptors of a short stage 1 are similar: at temperature 60 each matches many others a little. The reward of a point
# is then no larger than its penalty, and scores only become flat (docs/training.md)
_SHARP = {"temperature": 300.0}
_TWO_CORES = {"jitter": (0.0, 0.0, 0.0, 0.0), "light": 1.0}  # grey networks: changes of light instead of colours


def _posed(model: str, method: str, about: str, settings: dict[str, Any], **more: Any) -> Recipe:
    """Make a recipe of PoSFeat: all pairs with camera poses at 480x640, as published."""
    published = {"size": (480, 640), "pictures": 0, "schedule": "step", "decay": 0.1, "weight_decay": 0.0}
    chosen = {**PLAIN, **published, **more}
    return Recipe(model=model, method=method, about=about, data="scenes", settings={**_POSED, **settings}, **chosen)


def _two_cores(model: str, method: str, about: str, settings: dict[str, Any], **more: Any) -> Recipe:
    """Make a recipe of PoSFeat on small drawn views, for two cores."""
    return Recipe(
        model=model,
        method=method,
        about=about,
        batch=4,
        size=(240, 320),
        pictures=1_200,
        weight_decay=0.0,
        data="scenes",
        settings={**_POSED, **settings, **_TWO_CORES},
        **more,
    )


ROWS: dict[str, Recipe] = {
    "posfeat-description": _posed(
        "posfeat",
        "posfeat_description",
        "stage 1 of PoSFeat, published: descriptors, from camera poses",
        _LINES,
        **{"steps": 100_000, "batch": 8, "lr": 1e-4, "decay_steps": (90_000,)},
    ),
    "posfeat-detection": _posed(  # the published rate 1e-3 for a sum over 6 pairs, converted to their mean
        "posfeat",
        "posfeat_detection",
        "stage 2, published: scores by reinforcement, from init=CHECKPOINT of stage 1",
        _REWARD,
        **{"steps": 5_000, "batch": 6, "lr": 6e-3, "decay_steps": (4_000,), "optimiser": "sgd-plain"},
    ),
    "posfeat-description-small": _two_cores(
        "posfeat-small",
        "posfeat_description",
        "stage 1 for posfeat-small, from drawn scenes: hours of one core",
        _LINES,
        **{"steps": 6_000, "lr": 1e-3},
    ),
    "posfeat-detection-small": _two_cores(
        "posfeat-small",
        "posfeat_detection",
        "stage 2 for posfeat-small, from init=CHECKPOINT of stage 1",
        {**_REWARD, **_SHARP},
        **{"steps": 1_500, "lr": 1e-3, "warmup": 50},
    ),
    "swift-detection": _two_cores(
        "swift",
        "posfeat_detection",
        "stage 2 for networks with separate score layers: init=CHECKPOINT",
        _REWARD,
        **{"steps": 1_000, "lr": 1e-4, "warmup": 50, "init": "swift"},
    ),
}
