"""Calibration: observers compared with numpy and on distributions with a known best range, and their memory."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lf.core import LfError, UsageError
from lf.quantize import CALIBRATIONS
from lf.quantize.calibrate import observers
from lf.quantize.calibrate.observers import BINS, Histogram, MinMax, MovingAverage, entropy, mse, observer, percentile
from lf.quantize.calibrate.ranges import measure

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIZES = st.floats(2.0**-40, 2.0**40, width=32)
FLOATS = st.just(0.0) | SIZES | SIZES.map(lambda size: -size)
PICTURE = hnp.arrays(np.float32, st.integers(1, 30), elements=FLOATS)
PICTURES = st.lists(PICTURE, min_size=1, max_size=6)


def shown(made, *pictures):
    for picture in pictures:
        made.update(np.asarray(picture, np.float32))
    return made


def histogram(values):
    return shown(Histogram(lambda h: (h.low, h.high)), *np.array_split(np.asarray(values, np.float32), 7))


def squared_error(values, low, high, levels):
    """Squared error of the uniform quantizer of all engines, with zero as a level."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (levels - 1)
    zero = np.round(-low / scale)
    steps = np.clip(np.round(values / scale) + zero, 0, levels - 1) - zero
    return float(np.square(values - steps * scale).mean())


@pytest.fixture(scope="module")
def normal():
    return np.random.default_rng(0).standard_normal(200_000)


def test_extremes():
    pictures = [-1, 2, 0], [-3, 5], [4]
    assert shown(MinMax(), *pictures).range() == (-3, 5)
    assert shown(MovingAverage(), *pictures).range() == pytest.approx((0, 11 / 3))  # of -1, -3, 4 and of 2, 5, 4


def test_values_are_counted_in_parts_as_all_at_once(monkeypatch, normal):
    values = np.maximum(normal, -0.5).astype(np.float32)
    whole, parts = (Histogram(lambda h: (h.low, h.high)) for _ in range(2))
    monkeypatch.setattr(observers, "PART", len(values))
    whole.update(values)
    monkeypatch.setattr(observers, "PART", 1000)
    parts.update(values.reshape(2, -1))
    assert (parts.first, parts.exponent, parts.zeros) == (whole.first, whole.exponent, whole.zeros)
    np.testing.assert_array_equal(parts.counts, whole.counts)
    assert parts.counts.sum() == len(values)


def test_counting_takes_no_memory_of_its_own():
    values = np.ones(1 << 22, np.float32)
    made = Histogram(lambda h: (h.low, h.high))
    tracemalloc.start()
    made.update(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 8


def test_the_moving_average_is_exponential_after_a_hundred():
    made = shown(MovingAverage(), *[[-1, 1]] * 100)
    for picture in range(1, 51):
        shown(made, [-2, 3])
        left = 0.99**picture
        assert made.range() == pytest.approx((-2 + left, 3 - 2 * left))


@given(PICTURES, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_histogram_is_that_of_all_pictures_at_once_in_any_order(pictures, random):
    made = shown(Histogram(lambda h: (0, 0)), *pictures)
    once = shown(Histogram(lambda h: (0, 0)), np.concatenate(pictures))
    random.shuffle(pictures)
    again = shown(Histogram(lambda h: (0, 0)), *pictures)
    for other in (once, again):
        assert (other.exponent, other.first, other.zeros) == (made.exponent, made.first, made.zeros)
        np.testing.assert_array_equal(other.counts, made.counts)


@given(PICTURES)
@settings(max_examples=50)
def test_the_histogram_counts_as_numpy_does(pictures):
    values = np.concatenate(pictures)
    made = shown(Histogram(lambda h: (0, 0)), *pictures)
    assert (made.low, made.high) == (values.min(), values.max())
    assert len(made.counts) <= BINS
    at = np.floor(values.astype(np.float64) / made.width).astype(np.int64) - made.first
    np.testing.assert_array_equal(made.counts, np.bincount(at, minlength=len(made.counts)))
    assert made.without_zeros().sum() == np.count_nonzero(values)
    if made.high - made.low > 2**-20 * max(abs(made.low), abs(made.high)):
        assert made.width < 4 * (made.high - made.low) / BINS, "narrow enough"


@pytest.mark.parametrize("share", [90, 99, 99.9, 100])
def test_percentiles_are_those_of_numpy(normal, share):
    made = histogram(normal)
    cut = (100 - share) / 200
    assert percentile(made, share) == pytest.approx(np.quantile(normal, [cut, 1 - cut]), abs=2 * made.width)


def test_nothing_is_cut_from_zeros_alone():
    for method in CALIBRATIONS:
        made = shown(observer(method, 8)(), np.zeros(9), np.zeros(3))
        assert made.range() == (0, 0)


@pytest.mark.parametrize("rule", [entropy, mse])
@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 1), (-1, 3)])
def test_nothing_is_gained_by_clipping_a_uniform_distribution(rule, low, high):
    values = np.linspace(low, high, 300_000)
    assert rule(histogram(values), 256) == pytest.approx((low, high), abs=0.02)


def test_entropy_leaves_far_values_out_and_nothing_else():
    values = np.append(np.random.default_rng(0).uniform(-1, 1, 100_000), [9, -9])
    low, high = entropy(histogram(values), 256)
    assert high == pytest.approx(-low)
    assert 1 <= high < 1.2
    half = np.maximum(values, 0)
    assert entropy(histogram(half[half > 0]), 256) == pytest.approx((0, high), abs=0.1)


def test_zeros_are_exact_and_say_nothing(normal):
    positive = np.abs(normal)
    for rule in (entropy, mse):
        spiked = histogram(np.append(positive, np.zeros(500_000)))
        assert rule(spiked, 256)[1] == pytest.approx(rule(histogram(positive), 256)[1], rel=1e-6)


@pytest.mark.parametrize(
    ("bits", "deviations"),
    [(2, 1.71), (3, 2.15), (4, 2.55)],  # ACIQ, arXiv 1810.05723, table of the Gaussian
)
def test_mse_clips_a_normal_distribution_where_the_literature_does(normal, bits, deviations):
    tried = [(t, squared_error(normal, -t, t, 2**bits)) for t in np.linspace(0.5, 5, 181)]
    best, least = min(tried, key=lambda pair: pair[1])
    low, high = mse(histogram(normal), 2**bits)
    assert squared_error(normal, low, high, 2**bits) <= 1.01 * least
    if bits == 4:  # with few levels it matters that zero is one of them, which the table does not ask
        assert (high - low) / 2 == pytest.approx(best, rel=0.1)
        assert best == pytest.approx(deviations, rel=0.1)


@given(PICTURES, st.sampled_from([16, 256]))
@settings(max_examples=30)
def test_mse_is_no_worse_than_the_extremes(pictures, levels):
    values = np.concatenate(pictures).astype(np.float64)
    made = shown(Histogram(lambda h: (0, 0)), *pictures)
    low, high = mse(made, levels)
    assert min(made.low, 0) <= low <= high <= max(made.high, 0)
    if high > low:
        largest = squared_error(values, made.low, made.high, levels)
        # a bin is as good as its middle
        assert squared_error(values, low, high, levels) <= (np.sqrt(largest) + made.width) ** 2


def test_sixteen_bits_are_not_clipped(normal):
    for method in ("entropy", "mse"):
        low, high = shown(observer(method, 16)(), normal).range()
        assert (low, high) == pytest.approx((normal.min(), normal.max()), rel=0.05)


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_what_is_retained_does_not_grow(method):
    rng = np.random.default_rng(0)
    made, sizes = observer(method, 8)(), {}
    for count in range(1, 1001):
        made.update(np.float32(count) * rng.standard_normal((1, 4, 8, 8), np.float32))  # ever wider
        if count in (10, 1000):
            made.rule = None
            sizes[count] = len(pickle.dumps(made))
    assert sizes[1000] <= 8 * BINS + 1000
    assert sizes[10] > sizes[1000] / 3, "and it was there from the first pictures on"


def network(scale=1.0):
    """Two channels: the image and its negative times 100, through Relu."""
    weights = scale * np.array([1, -100], np.float32).reshape(2, 1, 1, 1)
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w"], ["a"], name="c"),
        onnx.helper.make_node("Relu", ["a"], ["b"], name="r"),
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 16, 16])
        for name, channels in (("image", 1), ("b", 2), ("a", 2))
    ]
    graph = onnx.helper.make_graph(
        nodes, "g", values[:1], values[1:2], [onnx.numpy_helper.from_array(weights, "w")], value_info=values[2:]
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def photos(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.uniform(-1, 0.5, (1, 1, 16, 16)).astype(np.float32)


def test_ranges_of_a_graph():
    made = measure(network(), ["Conv", "Relu"], False, photos(3), MinMax)
    seen = np.stack([*photos(3)])
    assert made.keys() == {"image", "a", "b"}
    assert (made["image"].low, made["image"].high) == (seen.min(), seen.max())
    assert made["a"] is made["b"], "the Relu is absorbed by the range"
    assert (made["b"].low, made["b"].high) == (0, pytest.approx(-100 * seen.min()))
    np.testing.assert_allclose(made["b"].channels, [seen.max(), -100 * seen.min()])
    symmetric = measure(network(), ["Conv", "Relu"], True, photos(3), MinMax)
    assert symmetric["a"].low == pytest.approx(-100 * seen.max())
    assert measure(network(), ["Relu"], False, photos(1), MinMax).keys() == {"a", "b"}
    with pytest.raises(LfError, match="the activation b holds a non-finite value"):
        measure(network(np.inf), ["Conv", "Relu"], False, photos(1), MinMax)


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_memory_does_not_depend_on_the_number_of_photos(method):
    def peak(count):
        tracemalloc.start()
        measure(network(), ["Conv", "Relu"], False, photos(count), observer(method, 8))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(10)  # imports
    assert peak(1000) < peak(10) + 32 * BINS  # bytes; 990 more photos would be 1 MB, what the graph makes of them 2


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("minmaks", "unknown calibration 'minmaks'; did you mean 'minmax'"),
        ("mse:3", "calibration mse takes no argument; type: `calibration=mse`"),
        ("percentile:", "percentile:: expected a percentage above 50, for example percentile:99.999"),
        ("percentile:101", "percentile:101: expected a percentage"),
    ],
)
def test_usage(method, text):
    with pytest.raises(UsageError, match=text):
        observer(method, 8)


def test_a_percentile_can_be_chosen(normal):
    made = shown(observer("percentile:90", 8)(), normal)
    assert made.range() == pytest.approx(np.quantile(normal, [0.05, 0.95]), abs=0.01)
    usual = shown(observer("percentile", 8)(), normal)
    assert usual.range() == percentile(usual, observers.PERCENTILE)
