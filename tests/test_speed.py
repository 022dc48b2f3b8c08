"""The race is only run between equals, and its ratios are taken within a round; what is measured of the drawings."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks import polyps, speed, transfer
from utils.data import Split
from utils.models import mnist_teacher


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (256, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, 256).astype(np.int32))


def test_all_variants_compute_the_same_loss_and_gradient(split):
    report = speed.same_loss_and_gradient(mnist_teacher(), split)
    assert set(report) == {"template", "keras", "live", "cached"}
    assert all(entry["relative gap of the gradient"] < 1e-3 for entry in report.values())


def test_a_variant_with_another_loss_is_not_raced(split, monkeypatch):
    right = speed.keras_distiller

    def wrong(teacher, student, jit):
        model = right(teacher, student, jit)
        model.student_loss_weight = 0.9
        return model

    monkeypatch.setattr(speed, "keras_distiller", wrong)
    with pytest.raises(ValueError, match="keras computes another loss"):
        speed.same_loss_and_gradient(mnist_teacher(), split)


def test_ratios_pair_the_rounds_and_charge_the_teachers_pass():
    rates = pd.DataFrame(
        {"template": [1.0, 2.0], "keras, XLA": [4.0, 4.0], "keras, no XLA": [2.0, 8.0], "live": [4.0, 8.0],
         "cached": [20.0, 40.0], "scratch": [10.0, 20.0], "limit": [40.0, 40.0], "teacher pass": [5.0, 5.0]}
    )  # fmt: skip
    found = speed.ratios(rates, epochs=4)
    assert found["cached / keras"].tolist() == [5.0, 5.0] and found["cached / template"].tolist() == [20.0, 20.0]
    assert found["cached, its pass paid in 4 epochs / keras"].tolist() == pytest.approx([10 / 4, (40 / 3) / 8])


def test_expected_hours_add_up():
    """By hand, at a second for each image and work: 14.4 × 1,849 × (25 + 20) + 63 × 1,849 × 25 seconds."""
    found = transfer.expected_hours({"teacher": 1.0, "asking": 1.0, "student": 1.0}, rate=transfer.T4_RATE / 10)
    assert found["this machine"] == pytest.approx(4_110_327 / 3600) and found["Colab T4"] == pytest.approx(114.1757500)


def test_what_can_be_learned_from_the_drawings_is_measured_and_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(polyps, "settings", replace(polyps.settings, figures=tmp_path, seeds=(0, 1)))
    monkeypatch.setattr(sys, "argv", ["polyps", "--train", "64", "--test", "150", "--size", "32", "--epochs", "1"])
    polyps.main()
    numbers = json.loads((tmp_path / "benchmark_polyps.json").read_text())["numbers"]
    assert len(numbers["by agreement"]["7 of 7"]) == numbers["small network"]["n"] == 2
    assert numbers["parameters"] == 9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 128) + 4 * 240 + 2 * 128 + 2
    assert 0 < numbers["colours alone"] < 1 < numbers["images a second"]
