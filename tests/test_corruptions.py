"""Corruptions are the same each time, stay in range, and cost accuracy."""

import matplotlib
import numpy as np
import pytest

from utils.corruptions import KINDS, STRENGTHS, corrupt, corrupted_accuracy
from utils.data import load_mnist
from utils.plots.ship import corruption_curves

matplotlib.use("agg")


@pytest.fixture(scope="module")
def data():
    return load_mnist("standin")


@pytest.fixture(scope="module")
def split(data):
    return data.test


@pytest.fixture(scope="module")
def predict(data):
    """Ridge regression of the digits: a trained model, in closed form."""
    x, y = data.train.images.reshape(len(data.train), -1) / 255, np.eye(10)[data.train.labels]
    weights = np.linalg.solve(x.T @ x + 30 * np.eye(784), x.T @ y)
    return lambda images: images.reshape(len(images), -1) / 255 @ weights


@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_falls_with_the_strength(split, predict, kind):
    accuracy, constant = (
        found[kind] for found in corrupted_accuracy((predict, lambda x: np.eye(10)[[3] * len(x)]), split, kinds=(kind,))
    )
    assert constant == [np.mean(split.labels == 3)] * 6  # each model's own answers
    assert len(accuracy) == 1 + len(STRENGTHS)
    assert accuracy[0] == np.mean(predict(split.images).argmax(-1) == split.labels) > 0.9
    assert accuracy[5] < accuracy[0] - 0.05
    assert np.polyfit(range(6), accuracy, 1)[0] < -0.005


@pytest.mark.parametrize("kind", KINDS)
def test_each_strength_is_further_from_the_picture(split, kind):
    images = split.images[:50].astype(np.float32) / 255
    distances = [np.sqrt(np.mean((corrupt(images, kind, s) - images) ** 2)) for s in (0, *STRENGTHS)]
    assert distances[0] == 0 and distances[1] > 0.01
    assert (
        distances == sorted(distances) or kind == "shift"
    )  # once strokes no longer overlap, they are as far as can be


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_type_and_range_stay_and_the_seed_decides(split, kind, dtype):
    images = split.images[:20] if dtype == np.uint8 else split.images[:20].astype(np.float32) / 255
    before = images.copy()
    found = corrupt(images, kind, 5, seed=1)
    assert found.dtype == dtype and found.shape == images.shape
    assert found.min() >= 0 and found.max() <= (255 if dtype == np.uint8 else 1)
    np.testing.assert_array_equal(found, corrupt(images, kind, 5, seed=1))
    assert np.array_equal(found, corrupt(images, kind, 5, seed=2)) == (kind in ("blur", "contrast"))
    np.testing.assert_array_equal(images, before)  # what was given is not touched


def test_bytes_and_floats_suffer_alike(split):
    for kind in KINDS:
        as_bytes = corrupt(split.images[:5], kind, 3) / 255
        np.testing.assert_allclose(as_bytes, corrupt(split.images[:5] / np.float32(255), kind, 3), atol=0.502 / 255)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_shift_moves_each_image_whole_by_so_many_pixels(strength):
    images = np.zeros((200, 28, 28, 1), np.float32)
    images[:, 14, 14] = 1
    _, rows, columns, _ = np.nonzero(corrupt(images, "shift", strength))
    assert len(rows) == 200
    moves = set(zip((rows - 14).tolist(), (columns - 14).tolist(), strict=True))
    assert moves == {(strength * a, strength * b) for a in (-1, 0, 1) for b in (-1, 0, 1)} - {(0, 0)}


def test_blur_spreads_the_ink_and_keeps_it():
    images = np.zeros((2, 28, 28, 1), np.float32)
    images[0, 14, 14] = 1
    blurred = corrupt(images, "blur", 3)
    assert not blurred[1].any()  # no image's ink runs into the next
    assert blurred.sum() == pytest.approx(1, abs=1e-3) and blurred.max() == pytest.approx(1 / (2 * np.pi), rel=0.02)


def test_unknown_kinds_strengths_and_images_are_refused(split):
    for arguments, message in (
        ((split.images, "fog", 1), "blur"),
        ((split.images, "blur", 6), "strength"),
        ((split.images[0], "blur", 1), "height, width"),
        ((split.images.astype(int), "blur", 1), "uint8 or float"),
        ((split.images.astype(np.float32), "noise", 1), "floats lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            corrupt(*arguments)


def test_the_curves_are_the_means_over_seeds_in_percent():
    accuracy = {kind: [[0.9, 0.5], [0.8, 0.3]] for kind in KINDS}
    numbers = {"kinds": list(KINDS), "models": [{"name": "teacher", "accuracy": accuracy}]}
    figure = corruption_curves(numbers, "made for tests")
    assert [ax.get_title() for ax in figure.axes] == list(KINDS) and all(ax.get_xlabel() for ax in figure.axes)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [85, 40])
