import numpy as np
import pytest
import tensorflow as tf

from tests.methods.fixtures import LABELS, Z_S, Z_T, both_precisions, finite, gradient
from utils import losses
from utils.methods import LSKD
from utils.methods.lskd import standardized, standardized_distillation_loss


@both_precisions
def test_worked_numbers(to, close):
    close(
        standardized(to(Z_S)),
        [[-0.2182178617, 1.0910893083, -0.8728714467], [-0.1879363678, -0.8926977471, 1.0806341149]],
    )  # with the 1e-7 in the denominator: without it the last digits differ by 1.5e-7
    found = standardized_distillation_loss(to(Z_T), to(Z_S), 2.0)
    close(found, 0.3114826492)
    close(9 * found, 2.8033438429)


@both_precisions
def test_the_standard_deviation_is_the_samples_and_not_the_populations(to, close):
    wider = (3 / 2) ** 0.5  # the ratio of the two at 3 classes

    def population(z):
        return wider * standardized(z, epsilon=wider * 1e-7)

    np.testing.assert_allclose(np.std(to(Z_S), axis=1, keepdims=True) * population(to(Z_S)),
                               to(Z_S) - tf.reduce_mean(to(Z_S), axis=1, keepdims=True), atol=1e-6)  # fmt: skip
    other = losses.distillation_loss(population(to(Z_T)), population(to(Z_S)), 2.0)
    close([other, 9 * other], [0.4704762785, 4.2342865066], 2)
    assert abs(float(standardized_distillation_loss(to(Z_T), to(Z_S), 2.0) - other)) > 0.1


@both_precisions
def test_the_terms_are_weighed_as_the_method_says(to, close):
    batch = {"label": LABELS, "teacher": {"logits": to(Z_T)}}
    total, terms = LSKD(0.1, 9.0, 2.0).loss(batch, {"logits": to(Z_S)}, {})
    close(terms["distillation"], 0.3114826492)
    close(total, 0.1 * 0.9835306993 + 2.8033438429)


@both_precisions
def test_it_is_blind_to_shift_and_scale(to, close):
    # But for the 1e-7 beside the standard deviation, which keeps constant rows finite.
    np.testing.assert_allclose(standardized(3 * to(Z_S) + 7), standardized(to(Z_S)), atol=1e-6)
    np.testing.assert_allclose(standardized_distillation_loss(to(Z_T), 2 * to(Z_T) - 1, 2.0), 0.0, atol=1e-6)


def test_with_two_classes_only_the_order_is_left_and_the_method_refuses():
    np.testing.assert_allclose(standardized(tf.constant([[2.0, 0.1], [0.3, 0.9]])), [[0.5**0.5, -(0.5**0.5)],
                               [-(0.5**0.5), 0.5**0.5]], atol=1e-6)  # fmt: skip
    z_t, z_s = tf.constant([[2.0, 0.1]], tf.float64), tf.constant([[0.3, 0.9]], tf.float64)
    assert float(standardized_distillation_loss(z_t, z_s, 2.0)) == pytest.approx(0.9603160495, abs=1e-9)
    (found,) = gradient(lambda z: standardized_distillation_loss(z_t, z, 2.0), z_s)
    np.testing.assert_allclose(found, 0.0, atol=1e-6)
    with pytest.raises(ValueError, match="collapses with 2 classes"):
        LSKD().make_student(None, 2)


def test_constant_logits_leave_finite_gradients():
    (found,) = gradient(lambda z: standardized_distillation_loss(tf.constant(Z_T), z, 2.0), tf.ones([2, 3]))
    assert finite(found) and np.abs(found).max() < 1e3
    np.testing.assert_array_equal(standardized(tf.ones([2, 3])), np.zeros((2, 3)))
    assert float(standardized_distillation_loss(tf.ones([2, 3]), tf.zeros([2, 3]), 2.0)) == 0
