import numpy as np
import pytest
import tensorflow as tf

from tests.methods.fixtures import LABELS, Z_S, Z_T, T, both_precisions, finite, gradient
from utils import losses
from utils.methods import DKD
from utils.methods.dkd import decoupled_terms


def loss(method, labels, z_t, z_s, epoch=99):
    batch = {"label": labels, "teacher": {"logits": z_t}, "epoch": epoch}
    return method.loss(batch, {"logits": z_s}, {})


@both_precisions
def test_worked_numbers(to, close):
    target, others = decoupled_terms(LABELS, to(Z_T), to(Z_S), T)
    close(target, [0.0224001410, 0.0093258816])
    close(others, [0.0027591785, 0.0078023433])
    close(T**2 * tf.reduce_mean(target), 0.2538081805)
    close(T**2 * tf.reduce_mean(others), 0.0844921748)
    ce = 0.9835306993
    close(loss(DKD(1.0, 8.0, T), LABELS, to(Z_T), to(Z_S))[0] - ce, 0.9297455791, 2)
    close(loss(DKD(1.0, 2.0, T), LABELS, to(Z_T), to(Z_S))[0] - ce, 0.4227925302, 2)
    # in the fifth of 20 epochs of warm-up the target part alone
    close(loss(DKD(1.0, 0.0, T, warmup=20), LABELS, to(Z_T), to(Z_S), epoch=4)[0] - ce, 0.0634520451, 2)


@both_precisions
def test_the_parts_make_up_kd(to, close):
    target, others = decoupled_terms(LABELS, to(Z_T), to(Z_S), T)
    p = tf.gather(tf.nn.softmax(to(Z_T) / T), LABELS, axis=1, batch_dims=1)
    close(p, [0.4165476313, 0.4668987272])
    close(target + (1 - p) * others, losses.softened_kl(to(Z_T), to(Z_S), T))
    close(16 * tf.reduce_mean(target + (1 - p) * others), 0.2999624878)


@both_precisions
def test_with_two_classes_it_is_kd_and_says_so(to, close):
    z_t, z_s, label = to([[2, 0.1]]), to([[0.3, 0.9]]), np.array([0], np.int32)
    target, others = decoupled_terms(label, z_t, z_s, T)
    close(16 * target, [0.7635524039])
    close(others, [0.0])
    with pytest.raises(ValueError, match=r"collapses with 2 classes.*OnSubclasses"):
        DKD().make_student(None, 2)


def test_a_teacher_that_is_certain_leaves_finite_gradients():
    z_t, z_s = tf.constant([[200.0, 0.0, -50.0], [0.0, 0.0, 300.0]]), tf.constant([[-90.0, 80.0, 0.0], [0.0, 5.0, 1.0]])
    (found,) = gradient(lambda z: loss(DKD(temperature=1.0), LABELS, z_t, z)[0], z_s)
    assert finite(found) and np.abs(found).max() > 0
    target, others = decoupled_terms(LABELS, z_t, z_s, 1.0)
    np.testing.assert_allclose(target, [170.0, 4.0247449], rtol=1e-5)
    np.testing.assert_allclose(others, [0.0, 1.8135682], rtol=1e-5, atol=1e-5)  # the others still have an order
