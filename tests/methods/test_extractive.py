import numpy as np
import pytest
import tensorflow as tf

from tests.methods.fixtures import LABELS, Z_S, Z_T, T, both_precisions, gradient
from utils import losses
from utils.methods import KD, Extractive
from utils.methods.extractive import extracted_target, extractive_loss


@both_precisions
def test_worked_numbers(to, close):
    z_t, z_s = to([[3, 2, 1, -2]]), to([[1, 1.5, 0, -0.5]])
    close(tf.nn.softmax(z_t / 4), [[0.3742744354, 0.2914852234, 0.2270089202, 0.1072314211]])
    close(extracted_target(z_t, 4.0, 0.0), [[0.7497266604, 0.2502733396, 0, 0]], 10)
    target = extracted_target(z_t, 4.0, 0.1)
    close(target, [[0.6997539944, 0.2502460056, 0.025, 0.025]], 10)
    close(extractive_loss(target, z_s, 1.0), 1.1128672594)
    close(extractive_loss(target, z_s, 4.0) / 4, 1.2650665488)
    close(extractive_loss(target, z_s, 4.0), 5.0602661950)
    (slope,) = gradient(lambda z: extractive_loss(target, z, 1.0), z_s)
    close(slope, [[-0.3910863799, 0.2586608561, 0.0885524695, 0.0438730543]])
    fixture = extracted_target(to(Z_T), 4.0, 0.1)
    high, low = 0.9333333333, 0.0333333333
    close(fixture, [[high, low, low], [low, low, high]], 10)
    close(extractive_loss(fixture, to(Z_S), 1.0), 1.0135306993)


@both_precisions
def test_with_the_teachers_whole_answer_and_one_temperature_it_is_kd(to, close):
    alpha, p = 0.3, tf.nn.softmax(to(Z_T) / T)
    entropy = -tf.reduce_mean(tf.reduce_sum(p * tf.math.log(p), axis=-1))

    def ours(z):
        return (1 - alpha) * losses.compute_plain_cross_entropy_loss(LABELS, z) + alpha * T * extractive_loss(p, z, T)

    def kd(z):
        return KD(alpha, T).loss({"label": LABELS, "teacher": {"logits": to(Z_T)}}, {"logits": z}, {})[0]

    close(gradient(ours, to(Z_S)), gradient(kd, to(Z_S)))
    close(ours(to(Z_S)) - alpha * T**2 * entropy, kd(to(Z_S)), 10)  # a cross-entropy carries the target's entropy
    close(T * extractive_loss(p, to(Z_S), T), 17.4146446689)  # the soft cross-entropy of KD


def test_at_a_high_temperature_the_positive_part_of_the_centred_logits_is_left():
    found = extracted_target(tf.constant([[3.0, 2.0, 1.0, -2.0]], tf.float64), 1e6, 0.0)
    np.testing.assert_allclose(found, [[2 / 3, 1 / 3, 0, 0]], atol=1e-5)


def test_two_classes_are_refused_since_the_target_is_a_smoothed_label():
    target = extracted_target(tf.constant([[2.0, 0.1], [0.3, 0.9]]), 4.0, 0.1)
    np.testing.assert_allclose(target, [[0.95, 0.05], [0.05, 0.95]], atol=1e-6)
    with pytest.raises(ValueError, match="collapses with 2 classes"):
        Extractive().make_student(None, 2)


def test_the_terms_are_weighed_as_the_method_says():
    batch = {"label": LABELS, "teacher": {"logits": tf.constant(Z_T, tf.float64)}}
    total, _ = Extractive(0.3, 0.7).loss(batch, {"logits": tf.constant(Z_S, tf.float64)}, {})
    np.testing.assert_allclose(total, 0.3 * 0.9835306993 + 0.7 * 1.0135306993, atol=1e-8)


def test_a_uniform_teacher_leaves_a_finite_loss():
    target = extracted_target(tf.zeros([2, 3]), 4.0, 0.1)
    assert np.isfinite(extractive_loss(target, tf.constant(Z_S), 1.0))
