"""Rooflines: no operation is above its roof, on any processor; a point by hand; the pictures."""

import numpy as np
import pytest

import costmodel
import workloads
from costmodel import Bound
from costmodel.studies.rooflines import roofline_chart, roofline_points, roofline_text

NAMES = ("stm32l4r5", "edge-gpu", "edge-pim", "isaac-ce", "jia2020")  # every family


@pytest.fixture(scope="module")
def points():
    ops = workloads.load("resnet8").with_bits(activation=8, weight=8)
    return {name: roofline_points(costmodel.load_hardware(name), ops) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_no_operation_is_above_the_roof(points, name):
    found = points[name]
    assert len(found.names) == 10  # nine convolutions and the dense layer of ResNet-8
    assert (found.rate <= found.roof(found.intensity) * (1 + 1e-5)).all()
    assert (found.share > 0).all() and found.share.sum() <= 1 + 1e-6
    assert found.ridge == pytest.approx(found.peak / found.bandwidth)


def test_the_first_layer_of_resnet8_on_the_microcontroller_by_hand(points):
    found = points["stm32l4r5"]
    # 442,368 MACs over 3,072 inputs, 16,384 outputs and 448 parameters of one byte each
    assert found.intensity[0] == pytest.approx(442_368 / (3_072 + 16_384 + 448))
    # two MACs a cycle at 120 MHz with efficiency 0.3164; 917,504 - 2 * 442,368 = 32,768 other operations at four a cycle
    seconds = 442_368 / (240e6 * 0.3164) + 32_768 / 480e6
    assert found.rate[0] == pytest.approx(442_368 / seconds, rel=1e-5)
    assert (found.peak, found.bandwidth) == (pytest.approx(240e6), pytest.approx(480e6))
    assert set(found.bound) == {Bound.COMPUTE}


def test_pictures(points):
    text = roofline_text(points["edge-gpu"])
    assert text.count("C") + text.count("O") > 3 and "/" in text and "-" in text
    assert max(map(len, text.splitlines())) < 100
    axes = roofline_chart(points["edge-gpu"], "on a GPU").axes[0]
    assert sum(len(c.get_offsets()) for c in axes.collections) == 10
    assert axes.get_title(loc="left") == "on a GPU"


def test_nothing_to_draw():
    table = workloads.profile(lambda x: x + 1, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="at least one operation with multiply-accumulates"):
        roofline_points(costmodel.load_hardware("stm32l4r5"), table)
