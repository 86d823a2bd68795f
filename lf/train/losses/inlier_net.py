"""IO-Net: classifies matches as inliers or outliers, which trains keypoints and descriptors.

KP2D (arXiv 1912.10615, section 3.3), after "Neural-Guided RANSAC" and "Learning to Find Good Correspondences". It is
trained beside the network and not shipped with it.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTH = 128


class InlierNet(nn.Module):
    """Classifies matches (B, 5, N): x, y in the source, x, y in the target, descriptor distance; (B, N), 1 is right."""

    def __init__(self) -> None:
        """Make fresh weights: 135,169 trainable numbers."""
        super().__init__()
        self.enter = nn.Sequential(nn.Conv1d(5, WIDTH, 1, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Sequential(*_layer(), *_layer()) for _ in range(4))
        self.leave = nn.Conv1d(WIDTH, 1, 1)

    def forward(self, matches: Tensor) -> Tensor:
        """Classify matches (B, 5, N), each in the context of the other matches of its pair: (B, N)."""
        x = self.enter(matches)
        for block in self.blocks:
            x = x + block(x)
        judged: Tensor = self.leave(x)
        return judged[:, 0]


def _layer() -> list[nn.Module]:
    return [nn.Conv1d(WIDTH, WIDTH, 1), nn.InstanceNorm1d(WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU()]
