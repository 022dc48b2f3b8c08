import numpy as np
import pytest
import tensorflow as tf

from tests.methods.fixtures import LABELS, Z_S, Z_T, both_precisions, finite, gradient
from utils.methods import LSKD
from utils.methods.lskd import standardized, standardized_distillation_loss


@both_precisions
def test_worked_numbers(to, close):
    close(
        standardized(to(Z_S)),
        [[-0.2182178617, 1.0910893083, -0.8728714467], [-0.1879363678, -0.8926977471, 1.0806341149]],
        500,  # the numbers are of a standard deviation without the 1e-7 in the denominator
    )
    found = standardized_distillation_loss(to(Z_T), to(Z_S), 2.0)
    np.testing.assert_allclose(found, 0.3114826492, atol=1e-6)
    np.testing.assert_allclose(9 * found, 2.8033438429, atol=3e-6)
    assert abs(float(found) - 0.4704762785) > 0.1  # which the population's standard deviation would give


def test_the_terms_are_weighed_as_the_method_says():
    batch = {"label": LABELS, "teacher": {"logits": tf.constant(Z_T, tf.float64)}}
    total, _ = LSKD(0.1, 9.0, 2.0).loss(batch, {"logits": tf.constant(Z_S, tf.float64)}, {})
    np.testing.assert_allclose(total, 0.1 * 0.9835306993 + 2.8033438429, atol=3e-6)


@both_precisions
def test_it_is_blind_to_shift_and_scale(to, close):
    np.testing.assert_allclose(standardized(3 * to(Z_S) + 7), standardized(to(Z_S)), atol=1e-6)
    np.testing.assert_allclose(standardized_distillation_loss(to(Z_T), 2 * to(Z_T) - 1, 2.0), 0.0, atol=1e-6)


def test_with_two_classes_only_the_order_is_left_and_the_method_refuses():
    np.testing.assert_allclose(standardized(tf.constant([[2.0, 0.1], [0.3, 0.9]])), [[0.5**0.5, -(0.5**0.5)],
                               [-(0.5**0.5), 0.5**0.5]], atol=1e-6)  # fmt: skip
    z_t, z_s = tf.constant([[2.0, 0.1]], tf.float64), tf.constant([[0.3, 0.9]], tf.float64)
    assert float(standardized_distillation_loss(z_t, z_s, 2.0)) == pytest.approx(0.9603160495, abs=1e-6)
    (found,) = gradient(lambda z: standardized_distillation_loss(z_t, z, 2.0), z_s)
    np.testing.assert_allclose(found, 0.0, atol=1e-6)
    with pytest.raises(ValueError, match="collapses with 2 classes"):
        LSKD().make_student(None, 2)


def test_constant_logits_leave_finite_gradients():
    (found,) = gradient(lambda z: standardized_distillation_loss(tf.constant(Z_T), z, 2.0), tf.ones([2, 3]))
    assert finite(found)
