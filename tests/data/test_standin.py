import numpy as np
from sklearn.datasets import load_digits

from utils.data.standin import enlarge, load_digits_standin


def test_sizes_names_and_types():
    dataset = load_digits_standin()
    assert dataset.name == "digits stand-in"
    assert dataset.source == "embedded digits stand-in, 1,437 + 360"
    assert dataset.standin
    assert dataset.num_classes == 10
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [1221, 216, 360]
    assert dataset.train.images.shape[1:] == (28, 28, 1)
    assert dataset.train.images.max() == 255
    assert dataset.train.images.min() == 0


def test_no_image_is_in_two_splits_and_none_is_lost():
    dataset = load_digits_standin()
    rows = np.concatenate([dataset.train.rows, dataset.validation.rows, dataset.test.rows])
    np.testing.assert_array_equal(np.sort(rows), np.arange(1797))


def test_images_and_labels_are_those_of_their_rows():
    dataset, digits = load_digits_standin(), load_digits()
    images = enlarge(digits.images)
    for split in (dataset.train, dataset.validation, dataset.test, dataset.all_train):
        np.testing.assert_array_equal(split.labels, digits.target[split.rows])
        np.testing.assert_array_equal(split.images[..., 0], images[split.rows])
        assert np.all(np.diff(split.rows) > 0)


def test_each_split_keeps_the_share_of_every_digit_within_one_image():
    dataset = load_digits_standin()
    whole = np.bincount(load_digits().target)
    for split, of, n in (
        (dataset.test, whole, 1797),
        (dataset.validation, np.bincount(dataset.all_train.labels), 1437),
        (dataset.train, np.bincount(dataset.all_train.labels), 1437),
    ):
        assert np.all(np.abs(np.bincount(split.labels) - of * len(split) / n) < 1)


def test_two_loads_are_equal_byte_for_byte_here_and_everywhere():
    assert load_digits_standin().digest == load_digits_standin().digest == "3e5d7978b56faee0"


def test_enlarging_is_bilinear_between_pixel_centres():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 17, (3, 8, 8)).astype(float)
    centres = np.clip((np.arange(20) + 0.5) * 8 / 20 - 0.5, 0, 7)
    rows = np.stack([[np.interp(centres, np.arange(8), row) for row in image] for image in small])
    expected = np.stack([[np.interp(centres, np.arange(8), column) for column in image.T] for image in rows])
    large = enlarge(small)
    assert large.dtype == np.uint8
    assert np.abs(large[:, 4:24, 4:24] - expected.transpose(0, 2, 1) * 255 / 16).max() <= 0.5 + 1e-9


def test_enlarging_keeps_white_white_and_the_margin_black():
    large = enlarge(np.full((1, 8, 8), 16.0))[0]
    assert np.all(large[4:24, 4:24] == 255)
    assert large.astype(int).sum() == 400 * 255
