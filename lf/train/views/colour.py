"""Colour jitter, batched: brightness, contrast, saturation, hue, in this order. Random numbers come from outside."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # weights of R, G, B in a grey value, ITU-R BT.601


def jitter(images: Tensor, amounts: Tensor, ranges: tuple[float, float, float, float]) -> Tensor:
    """Change the colours of every image by its own amounts.

    Brightness, contrast and saturation are factors in [1 - range, 1 + range], applied as blends with black, with the
    image's mean grey and with its grey version; hue is a shift in [-range, range] turns of the HSV circle. Grey images
    get the first two changes only. The result is clamped after each change.

    Args:
        images: (B, 3, H, W) RGB or (B, 1, H, W) grey, in [0, 1].
        amounts: (B, 4) in [-1, 1], shares of the ranges: brightness, contrast, saturation, hue.
        ranges: the largest change of each, 0 for none.

    Returns:
        Images of the same shape in [0, 1].
    """
    parts = amounts.to(images)[:, :, None, None, None] * images.new_tensor(ranges).view(4, 1, 1, 1)
    brightness, contrast, saturation, hue = parts.unbind(1)
    if ranges[0]:
        images = (images * (1 + brightness)).clamp(0, 1)
    if ranges[1]:
        images = _blend(grey(images).mean((2, 3), keepdim=True), images, 1 + contrast)
    if images.shape[1] == 1:
        return images
    if ranges[2]:
        images = _blend(grey(images), images, 1 + saturation)
    return turn(images, hue) if ranges[3] else images


def grey(images: Tensor) -> Tensor:
    """Convert images (B, 3 or 1, H, W) to luma (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)


def turn(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the HSV hue of RGB images (B, 3, H, W) in [0, 1] by `shift` (B, 1, 1, 1), in turns."""
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    red, green, blue = images.unbind(1)
    safe = chroma.clamp(min=1e-6)
    sextant = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sextant = torch.where(value == red, (green - blue) / safe, sextant) + 6 * shift[:, 0]
    k = (sextant[:, None] + images.new_tensor([5.0, 3.0, 1.0]).view(3, 1, 1)).remainder(6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def _blend(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    return (base + (images - base) * factor).clamp(0, 1)
