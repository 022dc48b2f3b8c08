import numpy as np
import pytest

from utils.data import Dataset, Split
from utils.data.dataset import stratified


def make_split(n, rows=None, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 4, 4, 1), np.uint8)
    return Split(images, (np.arange(n) % classes).astype(np.int32), rows)


def make_dataset(**changes):
    rows = np.random.default_rng(1).permutation(40)
    whole = make_split(40, np.arange(40))
    parts = {"train": whole.take(rows[:30]), "validation": whole.take(rows[30:]), "test": make_split(12, seed=2)}
    return Dataset(name="toy", source="toy, 40 + 12", class_names=("a", "b", "c"), **(parts | changes)), whole


def test_arrays_are_read_only_and_the_callers_stay_writeable():
    images, labels = np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int32)
    split = Split(images, labels)
    for array in (split.images, split.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    images[0] = 1
    labels[0] = 1
    assert len(split) == 3


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 4, 4, 1), np.float32), np.zeros(3, np.int32), r"images must be .* uint8 .* got float32"),
        (
            np.zeros((3, 4, 4), np.uint8),
            np.zeros(3, np.int32),
            r"images must be .*\[n, h, w, c\], got uint8 \(3, 4, 4\)",
        ),
        (np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int64), "labels must be .* int32"),
        (np.zeros((3, 4, 4, 1), np.uint8), [0, 1, 2], "labels must be .* got list"),
        (np.zeros((3, 4, 4, 1), np.uint8), np.zeros((3, 1), np.int32), "labels must be"),
        (np.zeros((3, 4, 4, 1), np.uint8), np.zeros(2, np.int32), "3 images but 2 labels"),
        (np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, np.int32), "at least one image"),
    ],
)
def test_a_split_of_the_wrong_form_is_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_labels_outside_the_classes_are_refused(name, label):
    with pytest.raises(ValueError, match=f"labels of the {name} split run from"):
        make_dataset(**{name: Split(np.zeros((2, 4, 4, 1), np.uint8), np.array([0, label], np.int32))})


def test_splits_with_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="images of the test split"):
        make_dataset(test=Split(np.zeros((2, 5, 4, 1), np.uint8), np.zeros(2, np.int32)))


def test_train_and_validation_that_share_images_are_refused():
    _, whole = make_dataset()
    with pytest.raises(ValueError, match="share images"):
        make_dataset(train=whole.take(np.arange(20)), validation=whole.take(np.arange(19, 40)))


def test_all_train_restores_the_original_order():
    dataset, whole = make_dataset()
    assert not np.array_equal(dataset.train.images, whole.images[:30])
    for name in ("images", "labels", "rows"):
        np.testing.assert_array_equal(getattr(dataset.all_train, name), getattr(whole, name))


def test_all_train_without_rows_is_train_then_validation():
    dataset, _ = make_dataset(train=make_split(5, seed=3), validation=make_split(4, seed=4))
    np.testing.assert_array_equal(dataset.all_train.images[:5], dataset.train.images)
    np.testing.assert_array_equal(dataset.all_train.images[5:], dataset.validation.images)


def test_the_digest_changes_with_any_value_and_only_then():
    dataset, _ = make_dataset()
    assert dataset.digest == make_dataset()[0].digest
    assert len(dataset.digest) == 16
    digests = {dataset.digest}
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        images, labels = split.images.copy(), split.labels.copy()
        images[-1, -1, -1] ^= 1
        labels[0] = (labels[0] + 1) % 3
        digests.add(make_dataset(**{name: Split(images, split.labels, split.rows)})[0].digest)
        digests.add(make_dataset(**{name: Split(split.images, labels, split.rows)})[0].digest)
    assert len(digests) == 7


def test_smaller_is_stratified_says_so_and_keeps_the_order():
    dataset, whole = make_dataset(test=make_split(12, np.arange(12), seed=2))
    small = dataset.smaller(15, 6, 12)
    assert small.source == "toy, 40 + 12 (slice of 15 + 6 + 12)"
    assert [len(small.train), len(small.validation), len(small.test)] == [15, 6, 12]
    for name in ("train", "validation", "test"):
        part, of = getattr(small, name), getattr(dataset, name)
        share = np.bincount(of.labels) * len(part) / len(of)
        assert np.all(np.abs(np.bincount(part.labels, minlength=3) - share) < 1)
        assert set(part.rows) <= set(of.rows)
        np.testing.assert_array_equal(part.images, (whole if name != "test" else of).images[part.rows])
    assert np.all(np.diff(small.all_train.rows) > 0)
    assert dataset.smaller(15, 6, 9).digest == dataset.smaller(15, 6, 9).digest
    assert dataset.smaller(15, 6, 9).digest != dataset.smaller(15, 6, 9, seed=1).digest


@pytest.mark.parametrize("sizes", [(31, 6, 6), (15, 0, 6), (15, 6, -1)])
def test_a_slice_of_an_impossible_size_is_refused(sizes):
    with pytest.raises(ValueError, match="a slice of"):
        make_dataset()[0].smaller(*sizes)


def test_stratified_parts_are_disjoint_complete_and_ascending():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    chosen, rest = stratified(labels, 10, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[chosen]), [5, 3, 2])
    np.testing.assert_array_equal(np.sort(np.concatenate([chosen, rest])), np.arange(100))
    assert np.all(np.diff(chosen) > 0)
    assert np.all(np.diff(rest) > 0)
    assert not np.array_equal(chosen, stratified(labels, 10, seed=1)[0])


@pytest.mark.parametrize("size", [0, 2, 98, 101])
def test_stratified_needs_every_class_on_both_sides(size):
    with pytest.raises(ValueError, match=f"cannot take {size} of 100 images of 3 classes"):
        stratified(np.repeat([0, 1, 2], [50, 30, 20]), size, seed=0)


def test_subclasses_go_wherever_their_images_go():
    whole = make_split(40)
    finer = Split(whole.images, whole.labels, np.arange(40), whole.labels * 10 + 1)
    assert finer.digest != Split(whole.images, whole.labels, np.arange(40)).digest
    dataset, _ = make_dataset(train=finer.take(np.arange(0, 30)), validation=finer.take(np.arange(30, 40)))
    for part in (dataset.all_train, dataset.smaller(12, 6, 6).train, dataset.validation):
        np.testing.assert_array_equal(part.subclasses, part.labels * 10 + 1)
    assert make_dataset()[0].all_train.subclasses is None
