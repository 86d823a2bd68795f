"""Losses of R2D2 (arXiv 1906.06195): repeatability, peakiness and reliability; one value per pair, (B,).

`aflow` (B, 2, H, W) is the position in the second view of each pixel of the first, x then y in px; NaN for pixels
without a partner, which no loss uses. Everything is float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12
PATCH_NORM = {"cosim": "l2", "dice": "none", "jaccard": "none", "czekanowski": "none", "sqchord": "l1"}  # "auto"
LEAST_VALID = 0.5  # least share of valid pixels of a patch
ROOT_EPSILON = 1e-8  # added under square roots of repeatability, whose slope is infinite at 0
MARGIN, TOO_CLOSE, FAR = 1.0, 0.008, 10.0  # of HardNet (arXiv 1705.10872): its margin; below is a duplicate; excluded


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps (B, C, H, W) at pixels (B, h, w, 2), bilinearly: (B, C, h, w). NaN reads the top-left corner."""
    last = points.new_tensor([maps.shape[-1] - 1, maps.shape[-2] - 1])
    grid = points.nan_to_num(0) * 2 / last - 1
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)


def valid(aflow: Tensor) -> Tensor:
    """Return a mask (B, 1, H, W) of the pixels that have a partner in the second view."""
    return aflow.isfinite().all(1, keepdim=True)


def repeatability(first: Tensor, second: Tensor, aflow: Tensor, kind: str, norm: str, window: int) -> Tensor:
    """Return 1 - the mean similarity of corresponding patches of two repeatability maps (section 3.2).

    Patches are `window` pixels wide, half a window apart. Those with few partners are left out.

    Args:
        first: (B, 1, H, W), values of at least 0.
        second: the same of the second view; it is warped to the first.
        aflow: see the module.
        kind: cosim (the paper's), dice, jaccard, czekanowski or sqchord: the standard similarities of densities.
        norm: norm by which each patch is divided first: l2, l1, none; or auto, see PATCH_NORM.
        window: N of the paper, pixels.

    Returns:
        (B,); a pair without a usable patch gives 0.
    """
    norm = PATCH_NORM[kind] if norm == "auto" else norm
    known = valid(aflow).float()
    warped = sample(second, aflow.permute(0, 2, 3, 1))
    p, q = (_normalise(F.unfold(x * known, window, stride=max(1, window // 2)), norm) for x in (first, warped))
    share = F.unfold(known, window, stride=max(1, window // 2)).mean(1)
    use = (share >= LEAST_VALID).float()
    loss: Tensor = ((1 - SIMILARITIES[kind](p, q)) * use).sum(1) / use.sum(1).clamp(min=1)
    return loss


def _normalise(patches: Tensor, norm: str) -> Tensor:
    """(B, N * N, patches), divided by the norm of each patch."""
    if norm == "none":
        return patches
    return F.normalize(patches, p={"l1": 1.0, "l2": 2.0}[norm], dim=1, eps=TINY)


def _cosim(p: Tensor, q: Tensor) -> Tensor:
    return F.cosine_similarity(p, q, dim=1, eps=TINY)


def _dice(p: Tensor, q: Tensor) -> Tensor:
    return 2 * (p * q).sum(1) / (p.square() + q.square()).sum(1).clamp(min=TINY)


def _jaccard(p: Tensor, q: Tensor) -> Tensor:
    shared = (p * q).sum(1)
    return shared / ((p.square() + q.square()).sum(1) - shared).clamp(min=TINY)


def _czekanowski(p: Tensor, q: Tensor) -> Tensor:
    return 2 * torch.minimum(p, q).sum(1) / (p + q).sum(1).clamp(min=TINY)


def _sqchord(p: Tensor, q: Tensor) -> Tensor:
    return 1 - ((p + ROOT_EPSILON).sqrt() - (q + ROOT_EPSILON).sqrt()).square().sum(1)


# patches (B, N * N, patches), values from 0 -> (B, patches), 1 for equal patches
SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosim": _cosim,
    "dice": _dice,
    "jaccard": _jaccard,
    "czekanowski": _czekanowski,
    "sqchord": _sqchord,
}


def peaky(maps: Tensor, window: int) -> Tensor:
    """Return 1 - the mean over pixels of (max - mean) in a square window, on maps (B, 1, H, W) smoothed 3 x 3: (B,).

    The window has `window + 1` pixels, an odd number for an even N; at the border it is cut (section 3.2).
    """
    smooth = F.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)
    side, pad = 2 * (window // 2) + 1, window // 2
    highest = F.max_pool2d(F.max_pool2d(smooth, (side, 1), 1, (pad, 0)), (1, side), 1, (0, pad))
    mean = F.avg_pool2d(smooth, (side, 1), 1, (pad, 0), count_include_pad=False)
    mean = F.avg_pool2d(mean, (1, side), 1, (0, pad), count_include_pad=False)
    return 1 - (highest - mean).mean((1, 2, 3))


def average_precision(positive: Tensor, others: Tensor, bins: int) -> Tensor:
    """Return the differentiable average precision of queries with one right answer, by a soft histogram.

    Bins of similarity are triangular, with centres evenly spaced from 0 to 1; the first and the last are open-ended.
    Let c be the position of a similarity in units of bins: then its part in bins k and above is
    clamp(c, k - 1, k) - (k - 1), so the cumulative counts need no histogram. AP sums precision times the gain in
    recall over the bins, from the highest (section 3.3).

    Args:
        positive: (...), similarity of the right answer.
        others: (..., M), similarities of wrong answers; -inf for none.
        bins: number of bins.

    Returns:
        (...) in [0, 1].
    """
    right, wrong = positive * (bins - 1), others * (bins - 1)
    total = torch.zeros_like(positive)
    above = torch.zeros_like(positive)
    for k in range(bins - 1, -1, -1):
        if k:
            found = right.clamp(k - 1, k) - (k - 1)
            false = (wrong.clamp(k - 1, k) - (k - 1)).sum(-1)
        else:
            found, false = torch.ones_like(right), others.isfinite().sum(-1).to(others.dtype)
        total = total + found / (found + false).clamp(min=TINY) * (found - above)
        above = found
    return total


def ap_reliability(precision: Tensor, reliability: Tensor, known: Tensor, base: float) -> Tensor:
    """Return 1 - AP * R - base * (1 - R), mean over the known queries of each pair: (B, N) -> (B,) (section 3.3)."""
    loss = 1 - precision * reliability - base * (1 - reliability)
    return (loss * known).sum(1) / known.sum(1).clamp(min=1)


def hardnet_reliability(
    descriptors: tuple[Tensor, Tensor],
    reliability: tuple[Tensor, Tensor],
    aflow: Tensor,
    points: Tensor,
    base: float,
    counter: bool,
) -> Tensor:
    """Triplet loss with the hardest negative of the batch (arXiv 1705.10872), weighed by reliability.

    Per point max(0, 1 + d(positive) - d(hardest negative)) * R + base * (1 - R). Negatives are the partners of all
    points of this process's pairs, so the pairs of a batch are mixed. R is the mean of both views.

    Args:
        descriptors: of both views, (B, D, H, W), of any length.
        reliability: of both views, (B, 1, H, W) in [0, 1].
        aflow: see the module.
        points: (B, N, 2) int64 pixels of the first view, x then y.
        base: loss of an unreliable point.
        counter: False omits the last term, as TU Delft's variant does. Then reliability 0 minimizes the loss.

    Returns:
        (B,).
    """
    batch, count = points.shape[:2]
    here = pick(torch.cat([descriptors[0], reliability[0], aflow], 1), points)  # (B, N, D + 3)
    there = sample(torch.cat([descriptors[1], reliability[1]], 1), here[..., None, -2:].detach())[..., 0].mT
    known = here[..., -2:].isfinite().all(-1)
    a, p = (F.normalize(x, dim=-1, eps=TINY).flatten(0, 1) for x in (here[..., :-3], there[..., :-1]))
    distance = (2 - 2 * a @ p.T + 1e-6).clamp(min=1e-6).sqrt()
    excluded = torch.eye(len(a), device=a.device, dtype=torch.bool) | (distance < TOO_CLOSE) | ~known.flatten()
    hardest = (distance + FAR * excluded).amin(1)
    triplet = (MARGIN + distance.diagonal() - hardest).clamp(min=0).view(batch, count)
    trust = (here[..., -3] + there[..., -1]) / 2
    loss = triplet * trust + (base * (1 - trust) if counter else 0)
    return torch.where(known, loss, 0).sum(1) / known.sum(1).clamp(min=1)


def pick(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps (B, C, H, W) at whole pixels (B, ..., 2) int64, x then y: (B, ..., C)."""
    batch, channels, height, width = maps.shape
    start = torch.arange(batch, device=maps.device).view(-1, *[1] * (points.dim() - 2)) * (height * width)
    index = start + points[..., 1] * width + points[..., 0]
    rows = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    return rows.index_select(0, index.flatten()).view(*index.shape, channels)
