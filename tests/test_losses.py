"""The losses against an oracle in NumPy, worked numbers, limits, extremes and bad input."""

import numpy as np
import pytest
import tensorflow as tf

from tests.methods.fixtures import both_precisions
from utils import losses
from utils.methods import KD, Scratch

STUDENT = [[1.0, 2.0, 0.5], [0.2, -0.3, 1.1]]
TEACHER = [[2.0, 1.0, 0.1], [0.0, 0.5, 2.5]]
LABELS = [0, 2]
# T² KL at each T, computed by hand in float64.
SCALED_KL = {
    1: 0.2779295755,
    2: 0.3027420669,
    4: 0.2999624878,
    16: 0.2894264921,
    32: 0.2870191346,
    64: 0.2857521716,
    1000: 0.2845293386,
    10000: 0.2844529535,
}


def f64(values):
    return tf.constant(values, tf.float64)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gradient(function, at):
    at = tf.convert_to_tensor(at)
    with tf.GradientTape() as tape:
        tape.watch(at)
        value = function(at)
    return tape.gradient(value, at)


@pytest.mark.parametrize(("temperature", "expected"), SCALED_KL.items())
def test_distillation_loss_matches_the_worked_numbers(temperature, expected):
    # T² multiplies the rounding of the KL: from T = 10,000 on, float64 keeps seven digits.
    tolerance = 1e-9 if temperature <= 1000 else 1e-7
    found = float(losses.distillation_loss(f64(TEACHER), f64(STUDENT), temperature))
    assert found == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("temperature", [1, 2, 4, 16, 32, 64])
def test_float32_agrees_with_the_worked_numbers(temperature):
    # T² multiplies the rounding of the KL, which is about 1e-7; beyond T = 100 float32 has too few digits.
    tolerance = max(1e-6, 1e-7 * temperature**2)
    found = float(losses.distillation_loss(TEACHER, STUDENT, float(temperature)))
    assert found == pytest.approx(SCALED_KL[temperature], abs=tolerance)


@both_precisions
def test_the_kl_is_a_sum_over_the_classes_and_a_mean_over_the_batch(to, close):
    each = losses.softened_kl(to(TEACHER), to(STUDENT), 4.0)
    assert each.shape == (2,)
    close(tf.reduce_mean(each), 0.0187476555)
    found = losses.distillation_loss(to(TEACHER), to(STUDENT), 4.0)
    close(found, 16 * 0.0187476555, 20)
    assert abs(float(found) - 0.0999874959) > 0.1  # which the mean over the classes would give


@both_precisions
def test_with_the_teachers_entropy_it_is_the_soft_cross_entropy(to, close):
    p = softmax(np.array(TEACHER) / 4)
    entropy = -16 * np.mean(np.sum(p * np.log(p), axis=1))
    assert entropy == pytest.approx(17.1146821811, abs=1e-9)
    close(entropy + losses.distillation_loss(to(TEACHER), to(STUDENT), 4.0), 17.4146446689)
    total = losses.compute_student_loss(LABELS, to(TEACHER), to(STUDENT), 0.5, 4.0)
    close(total + entropy / 2, 9.1990876841)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_distillation_loss_matches_the_equations_in_numpy(temperature, classes):
    rng = np.random.default_rng(0)
    t, s = rng.normal(0, 3, (2, 7, classes))
    p, q = softmax(t / temperature), softmax(s / temperature)
    expected = temperature**2 * np.mean(np.sum(p * np.log(p / q), axis=1))
    assert float(losses.distillation_loss(f64(t), f64(s), temperature)) == pytest.approx(expected, abs=1e-10)


@both_precisions
def test_two_classes_match_the_binary_kl(to, close):
    close(losses.distillation_loss(to([[2, 0.1]]), to([[0.3, 0.9]]), 4.0), 0.7635524039)


@both_precisions
def test_the_divergence_is_of_the_teacher_from_the_student_and_not_the_reverse(to, close):
    reverse = losses.distillation_loss(to(STUDENT), to(TEACHER), 4.0)
    close(reverse, 0.2984935288)
    assert abs(float(reverse) - SCALED_KL[4]) > 1e-3


@both_precisions
def test_gradient_matches_the_worked_numbers_and_sums_to_zero_in_each_row(to, close):
    found = gradient(lambda z: losses.distillation_loss(to(TEACHER), z, 4.0), to(STUDENT)).numpy()
    close(found, [[-0.2014875244, 0.1621851463, 0.0393023782], [0.1381694822, -0.0033479615, -0.1348215206]])
    close(found.sum(axis=1), 0, 1e-3 if found.dtype == np.float64 else 1)


def test_for_high_temperature_it_becomes_logit_matching():
    found = gradient(lambda z: losses.distillation_loss(f64(TEACHER), z, 1e5), f64(STUDENT)).numpy()
    expected = [[-0.1888888889, 0.1444444444, 0.0444444444], [0.1444444444, -0.0222222222, -0.1222222222]]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    centred = np.array(STUDENT) - np.mean(STUDENT, 1, keepdims=True) - TEACHER + np.mean(TEACHER, 1, keepdims=True)
    limit = np.mean(np.sum(centred**2, axis=1)) / (2 * 3)
    assert limit == pytest.approx(0.2844444444, abs=1e-9)
    assert float(losses.distillation_loss(f64(TEACHER), f64(STUDENT), 1e5)) == pytest.approx(limit, abs=1e-5)


def test_without_t_squared_the_gradient_would_fade_with_it_it_keeps_its_size():
    def norm(t):
        return float(tf.norm(gradient(lambda z: losses.distillation_loss(f64(TEACHER), z, t), f64(STUDENT))))

    assert 0.7 < norm(64.0) / norm(4.0) < 1.4
    assert norm(64.0) / 64**2 < 0.01 * norm(4.0) / 4**2


def test_no_gradient_flows_into_the_teacher():
    assert gradient(lambda z: losses.distillation_loss(z, f64(STUDENT), 4.0), f64(TEACHER)) is None


def test_equal_logits_give_zero_and_a_shift_of_a_row_changes_nothing():
    assert float(losses.distillation_loss(f64(TEACHER), f64(TEACHER), 4.0)) == pytest.approx(0, abs=1e-12)
    shifted = np.array(STUDENT) + np.array([[5.0], [-7.0]])
    assert float(losses.distillation_loss(f64(TEACHER), f64(shifted), 4.0)) == pytest.approx(SCALED_KL[4], abs=1e-9)


@pytest.mark.parametrize("size", [1e4, 1e10])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_extreme_logits_leave_value_and_gradient_finite(size, dtype):
    t = tf.constant([[size, -size, 0.0]], dtype)
    s = tf.constant([[-size, size, 0.0]], dtype)
    loss = losses.compute_student_loss([0], t, s, 0.5, 1.0)
    assert np.isfinite(float(loss)) and float(loss) > size / 2
    assert np.all(np.isfinite(gradient(lambda z: losses.compute_student_loss([0], t, z, 0.5, 1.0), s)))


def test_a_confident_student_still_gets_a_gradient():
    # softmax followed by a KL that clips at 1e-7 gives about 0 here.
    found = gradient(lambda z: losses.distillation_loss(tf.zeros([1, 2]), z, 1.0), [[40.0, -40.0]]).numpy()
    np.testing.assert_allclose(found, [[0.5, -0.5]], atol=1e-6)


@both_precisions
def test_cross_entropy_matches_the_worked_number(to, close):
    close(losses.compute_plain_cross_entropy_loss(LABELS, to(STUDENT)), 0.9835306993)
    close(losses.compute_teacher_loss(LABELS, to(STUDENT)), 0.9835306993)


@both_precisions
def test_student_loss_weighs_the_distillation_term_with_alpha(to, close):
    def total(alpha, temperature=4.0):
        return losses.compute_student_loss(LABELS, to(TEACHER), to(STUDENT), alpha, temperature)

    close(total(0.5), 0.6417465935)
    close(total(0), 0.9835306993)
    close(total(1), SCALED_KL[4])
    close(total(0.25), 0.75 * 0.9835306993 + 0.25 * SCALED_KL[4])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_methods_that_train_compute_the_assignment_s_functions(alpha):
    teacher, student = tf.constant(TEACHER), tf.constant(STUDENT)
    batch, outputs = {"label": tf.constant(LABELS), "teacher": {"logits": teacher}}, {"logits": student}
    total, _ = KD(alpha, 4.0).loss(batch, outputs, {})
    np.testing.assert_allclose(total, losses.compute_student_loss(LABELS, teacher, student, alpha, 4.0), rtol=1e-6)
    alone, _ = Scratch().loss(batch, outputs, {})
    np.testing.assert_allclose(alone, losses.compute_teacher_loss(LABELS, student), rtol=1e-6)


def test_a_certain_teacher_at_alpha_1_and_t_1_is_plain_cross_entropy():
    certain = f64([[1e3, 0, 0], [0, 0, 1e3]])
    found = float(losses.compute_student_loss(LABELS, certain, f64(STUDENT), 1, 1))
    assert found == pytest.approx(0.9835306993, abs=1e-9)


def test_the_order_of_the_batch_does_not_matter():
    assert float(losses.compute_student_loss(LABELS[::-1], f64(TEACHER[::-1]), f64(STUDENT[::-1]), 0.5, 4.0)) == (
        pytest.approx(0.6417465935, abs=1e-9)
    )


@pytest.mark.parametrize("temperature", [0, -1, 0.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        losses.distillation_loss(TEACHER, STUDENT, temperature)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        losses.compute_student_loss(LABELS, TEACHER, STUDENT, alpha, 4.0)


def test_shapes_that_do_not_match_are_refused_in_words():
    with pytest.raises(ValueError, match="same \\[batch, classes\\]"):
        losses.distillation_loss(TEACHER, [row[:2] for row in STUDENT], 4.0)
    with pytest.raises(ValueError, match="3 labels for 2 rows"):
        losses.compute_plain_cross_entropy_loss([0, 1, 2], STUDENT)
    with pytest.raises(ValueError, match="argmax"):
        losses.compute_plain_cross_entropy_loss([[1, 0, 0], [0, 0, 1]], STUDENT)
    with pytest.raises(ValueError, match="floating-point"):
        losses.compute_teacher_loss(LABELS, [[1, 2, 3], [4, 5, 6]])
    with pytest.raises(ValueError, match="float32"):
        losses.distillation_loss(f64(TEACHER), tf.constant(STUDENT, tf.float32), 4.0)


def test_keras_own_distillation_agrees_where_it_divides_by_t_and_scales():
    keras_distillation = pytest.importorskip("keras.distillation")
    import keras

    reference = keras_distillation.LogitsDistillation(loss=keras.losses.KLDivergence(), temperature=4.0)
    found = reference.compute_loss(tf.constant(TEACHER), tf.constant(STUDENT))
    assert float(found) == pytest.approx(SCALED_KL[4], abs=1e-5)
