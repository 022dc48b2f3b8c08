import numpy as np
import pytest

from utils.data import load_mnist
from utils.data.variants import halves, without_class


@pytest.fixture(scope="module")
def digits():
    return load_mnist("standin")


def test_halves_are_two_classes_that_know_their_digits(digits):
    found = halves(digits)
    assert found.class_names == ("0 to 4", "5 to 9") and "two classes" in found.source and found.standin
    for name in ("train", "validation", "test"):
        split, before = getattr(found, name), getattr(digits, name)
        np.testing.assert_array_equal(split.labels, before.labels >= 5)
        np.testing.assert_array_equal(split.subclasses, before.labels)
        np.testing.assert_array_equal(split.images, before.images)
    assert found.digest != digits.digest


def test_a_class_is_left_out_of_what_is_learned_and_chosen_from_but_not_of_the_test(digits):
    found = without_class(digits, 3)
    assert set(found.all_train.labels) == set(range(10)) - {3} == set(found.validation.labels)
    assert len(found.train) == np.sum(digits.train.labels != 3) and found.num_classes == 10
    np.testing.assert_array_equal(found.test.labels, digits.test.labels)
    assert "none of class 3" in found.source
