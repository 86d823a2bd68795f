"""Settings that several recipes share."""

from __future__ import annotations

JOINT = {
    "labels": "corners",
    "relabel": (0.3, 0.6),
    "adaptations": 6,
    "view_pairs": "wide",
    "detector_loss": "categorical",
    "corner_labels": "trusted",
    "descriptor_loss": "dual-softmax",
    "descriptor_weight": 1.0,
    "points": 256,
    "negatives": 100,
    "temperature": 0.07,
}
PUBLISHED_JOINT = {
    **JOINT,
    "relabel": (),
    "view_pairs": "published",
    "detector_loss": "binary",
    "corner_labels": "soft",
    "descriptor_loss": "sparse",
    "points": 1_000,
}

KP2D = {
    "io": True,
    "descriptor": True,
    "descriptor_weight": 1.0,
    "descriptor_loss": "triplet",
    "points": 0,
    "temperature": 0.07,
    "io_points": 300,
    "io_lowest": False,
    "patch_ratio": 0.7,
    "scaling": 0.2,
    "perspective": 0.4,
    "max_angle": 45.0,
    "jitter": (0.5, 0.5, 0.2, 0.05),
}

R2D2 = {
    "repeat_loss": "cosim",
    "patch_norm": "auto",
    "window": 16,
    "reliability_loss": "ap",
    "bins": 20,
    "base": 0.5,
    "hardnet_counter": True,
    "hardnet_points": 512,
    "source": "synthetic",
    "flow": "",
    "shorter": (256.0, 1024.0),
    "tilt": 0.5,
    "noise": 25.0,
    "jitter": (0.2, 0.2, 0.2, 0.1),
    "trials": 5,
}


SWIFT = {
    "labels": "corners",
    "scale": 1.6,
    "rotation": 20.0,
    "light": 1.2,
    "matchability": "found",
    "heat_weight": 10.0,
    "descriptor_weight": 1.0,
    "points": 160,
    "rivals": "batch",
    "temperature": 0.05,
    "teacher": "",
    "teacher_weight": 50.0,
}

SEGMENTATION = {
    "trunk": "joint",
    "keypoints": "labels",
    "segmentation_loss": "cross-entropy",
    "segmentation_weight": 1.0,
}
LABELLED = "masks:"  # the user gives the folder
