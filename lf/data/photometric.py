"""Photometric changes of an image: light, optics, sensor, compression; no geometry.

At strength 1 the ranges are those of SuperPoint's training (brightness +-50, contrast 0.5-1.5, noise up to 10 grey
levels, soft ellipses), with gamma, colour cast, focus blur and JPEG added, and without its impulse noise: cameras have
none, and every such dot is a corner that no other view can confirm.
"""

from __future__ import annotations

import cv2
import numpy as np

from lf.core import Array


def tone(image: Array, rng: np.random.Generator, strength: float) -> Array:
    """Gamma, contrast around the mean, brightness, colour cast; uint8 (H, W, 3) in, float32 out, grey levels 0-255."""
    levels = np.arange(256, dtype=np.float32) / 255
    bent = (255 * levels ** np.float32(2 ** (strength * rng.uniform(-0.8, 0.8))))[image]
    contrast = 2 ** (strength * rng.uniform(-1, 0.6))
    cast = 1 + strength * rng.uniform(-0.08, 0.08, 3)
    mean = bent.mean()
    lit = (bent - mean) * contrast + mean + strength * rng.uniform(-50, 50)
    return each_pixel(lit, np.tile(cast, image.shape[1])).astype(np.float32)


def each_pixel(image: Array, factors: Array) -> Array:
    """Multiply (H, W, 3) by factors (W * 3) or (H, W * 3); numpy is slow with an axis of length three."""
    product: Array = image.reshape(len(image), -1) * factors
    return product.reshape(image.shape)


def shade(image: Array, rng: np.random.Generator, strength: float) -> Array:
    """Soft shadows and highlights of a few large ellipses."""
    height, width = image.shape[:2]
    mask: Array = np.zeros((64, 64), np.float32)
    for _ in range(int(rng.integers(3, 12))):
        centre, axes = rng.integers(0, 64, 2), rng.integers(4, 24, 2)
        turn = float(rng.uniform(0, 360))  # degrees
        cv2.ellipse(mask, centre.tolist(), axes.tolist(), turn, 0, 360, float(rng.uniform(-0.6, 0.5)), -1)
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(2, 8))
    factor = 1 + strength * cv2.resize(mask, (width, height), interpolation=cv2.INTER_CUBIC)
    return each_pixel(image, np.repeat(factor, 3, axis=1))


def blur(image: Array, rng: np.random.Generator, strength: float) -> Array:
    """Defocus or motion blur along a line; the centre of mass does not move."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), 0.3 + strength * rng.uniform(0, 1.2))  # px
    length = 3 + 2 * int(rng.integers(0, 1 + round(2 * strength)))  # px, odd
    kernel = np.zeros((length, length), np.float32)
    angle, half = rng.uniform(0, np.pi), length // 2
    end = np.round(half * np.array([np.cos(angle), np.sin(angle)])).astype(int)
    cv2.line(kernel, (half - end).tolist(), (half + end).tolist(), 1.0)
    kernel += kernel[::-1, ::-1]  # a drawn line may be asymmetric, and a blur with a shift would change the homography
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def grain(image: Array, rng: np.random.Generator, strength: float) -> Array:
    """Gaussian noise of up to 10 grey levels."""
    deviation = np.float32(strength * rng.uniform(0, 10))
    noise: Array = rng.standard_normal(image.shape, dtype=np.float32)
    noise *= deviation
    noise += image
    return noise


def jpeg(image: Array, quality: int) -> Array:
    """Compress and decompress uint8 (H, W, 3) RGB; `quality` from 1 to 100."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded: Array = cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[assignment]  # never None: we made it
    return decoded[..., ::-1].copy()


def change(image: Array, rng: np.random.Generator, strength: float = 1.0) -> Array:
    """Photograph the same image under other conditions.

    Args:
        image: uint8 (H, W, 3) RGB.
        rng: source of all random numbers.
        strength: 0 changes almost nothing, 1 is strong; linear or exponential in every range.

    Returns:
        uint8 (H, W, 3) RGB, aligned pixel by pixel.
    """
    changed = tone(image, rng, strength)
    np.clip(changed, 0, 255, out=changed)
    for step, odds in ((shade, 0.6), (blur, 0.4), (grain, 0.7)):
        if rng.random() < odds:
            changed = step(changed, rng, strength)
    quantized: Array = np.clip(np.round(changed, out=changed), 0, 255, out=changed).astype(np.uint8)
    if rng.random() < 0.4:
        quantized = jpeg(quantized, int(rng.integers(round(95 - 55 * min(1, strength)), 97)))
    return quantized
