"""SEGMENTATION_LOSSES: losses between logits of classes and masks. Ignored pixels do not count.

A loss takes logits (B, n, H, W) at the size of the masks, masks (B, H, W) int64 with classes from 0 to n - 1 or VOID,
and returns a number; 0 where every pixel is ignored.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from lf.data.masks import VOID

EPSILON = 1e-7  # least denominator of a Dice coefficient

Loss = Callable[[Tensor, Tensor], Tensor]


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits (B, n, h, w) to the (H, W) of the masks, bilinearly, with pixel areas aligned."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over all pixels that are not ignored; every class has weight 1."""
    total = F.cross_entropy(logits, masks, ignore_index=VOID, reduction="sum")
    return total / (masks != VOID).sum().clamp(min=1)


def dice_per_class(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 - Dice of each class over the batch (n,), 0 for absent classes; and a mask of occurring classes (n,)."""
    known = (masks != VOID)[:, None]
    share = logits.softmax(1) * known
    truth = F.one_hot(masks.where(known[:, 0], 0), logits.shape[1]).movedim(-1, 1) * known
    both = (share * truth).sum((0, 2, 3))
    count = truth.sum((0, 2, 3))
    coefficient = 2 * both / (share.sum((0, 2, 3)) + count).clamp(min=EPSILON)
    return (1 - coefficient) * (count > 0), count > 0


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Return 1 - Dice, mean over the classes that occur in the batch."""
    loss, occurs = dice_per_class(logits, masks)
    return loss.sum() / occurs.sum().clamp(min=1)


def dice_fork(logits: Tensor, masks: Tensor) -> Tensor:
    """Return 1 - Dice, mean over all classes. Absent classes count as 0, so the loss is smaller if there are many."""
    return dice_per_class(logits, masks)[0].mean()


SEGMENTATION_LOSSES: dict[str, Loss] = {
    "cross-entropy": cross_entropy,
    "dice": dice,
    "dice-fork": dice_fork,
    "cross-entropy+dice": lambda logits, masks: cross_entropy(logits, masks) + dice(logits, masks),
}
