import numpy as np
import pytest
import tensorflow as tf

from tests.methods.fixtures import both_precisions, finite, gradient
from utils import losses
from utils.methods import RKD
from utils.methods.rkd import angle_loss, distance_loss

F_T = [(0, 0), (3, 0), (0, 4)]
F_S = [(0, 0), (1, 0), (0, 1)]


@both_precisions
def test_worked_numbers(to, close):
    distance, angle = distance_loss(to(F_T), to(F_S)), angle_loss(to(F_T), to(F_S))
    close([distance, angle], [0.0034812488, 0.0007444820])
    close(9 * distance, 0.0313312392)
    close(27 * angle, 0.0201010127)
    close(9 / 6 * distance, 0.0052218732)  # the mean off the diagonal, where all is 0
    close(27 / 6 * angle, 0.0033501688)  # the mean over triplets of distinct samples: the others add nothing
    close(25 * distance + 50 * angle, 0.1242553176, 10)
    close(distance_loss(to([(0, 0), (9, 0), (0, 0.5)]), to([(0, 0), (1, 0), (0, 20)])), 0.3926109665)


@both_precisions
def test_distances_are_in_units_of_the_mean_of_the_pairs_without_the_diagonal(to, close):
    equilateral = to([(0, 0), (1, 0), (0.5, 0.75**0.5)])  # whose relative distances are 1
    for points, mean, sides in ((F_S, 1.1380711875, (1, 1, 2**0.5)), (F_T, 4, (3, 4, 5))):
        expected = 2 / 9 * sum((side / mean - 1) ** 2 / 2 for side in sides)
        close(distance_loss(equilateral, to(points)), expected)
        close(distance_loss(to(points), equilateral), expected)


@both_precisions
def test_the_terms_are_weighed_as_the_method_says(to, close):
    logits = to([[1, 0], [0, 1], [2, 0]])
    batch = {"label": np.array([0, 1, 1], np.int32), "teacher": {"feature": to(F_T), "logits": -logits}}
    total, terms = RKD(alpha=0.3).loss(batch, {"feature": to(F_S), "logits": logits}, {})
    mixed = 0.7 * terms["cross_entropy"] + 0.3 * terms["distillation"]
    close(total - mixed, 0.1242553176, 10)
    close(terms["distillation"], losses.distillation_loss(-logits, logits, 4.0))


def test_rotated_moved_and_enlarged_features_have_the_same_relations():
    rng = np.random.default_rng(0)
    theirs = tf.constant(rng.normal(size=(7, 2)))
    c, s = np.cos(0.7), np.sin(0.7)
    ours = 2.5 * tf.matmul(theirs, tf.constant([[c, s], [-s, c]])) + tf.constant([1.0, -3.0], tf.float64)
    assert float(distance_loss(theirs, ours)) < 1e-12 and float(angle_loss(theirs, ours)) < 1e-12
    assert float(distance_loss(theirs, theirs[:, :1])) > 1e-3


def test_networks_of_different_width_can_be_compared_and_batches_of_any_size():
    rng = np.random.default_rng(0)
    wide, narrow = (tf.constant(rng.normal(size=(n, d)), tf.float32) for n, d in ((6, 9), (6, 4)))
    for n in (1, 2, 6):
        assert np.isfinite(distance_loss(wide[:n], narrow[:n])) and np.isfinite(angle_loss(wide[:n], narrow[:n]))
    assert float(distance_loss(wide[:1], narrow[:1])) == 0
    assert float(angle_loss(wide[:2], narrow[:2])) < 1e-12  # two samples have no angle but 0


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_identical_samples_leave_finite_gradients_and_the_teacher_without(loss):
    rng = np.random.default_rng(0)
    theirs = tf.constant(rng.normal(size=(5, 8)), tf.float32)
    for ours in (tf.zeros([5, 8]), tf.concat([theirs[:2] + 100, theirs[:2] + 100, theirs[4:]], 0)):
        to_teacher, to_student = gradient(loss, theirs, ours)
        assert to_teacher is None and finite(to_student) and np.abs(to_student).max() < 10


def test_the_angles_are_taken_among_the_first_samples_and_a_weight_of_0_leaves_cross_entropy():
    rng = np.random.default_rng(0)
    batch = {"label": np.array([0, 1, 2, 0], np.int32), "teacher": {"logits": tf.zeros([4, 3]), "feature": None}}
    batch["teacher"]["feature"] = tf.constant(rng.normal(size=(4, 5)), tf.float32)
    outputs = {"logits": tf.constant(rng.normal(size=(4, 3)), tf.float32)}
    outputs["feature"] = tf.constant(rng.normal(size=(4, 6)), tf.float32)
    total, terms = RKD(distance=0.0, angle=0.0).loss(batch, outputs, {})
    assert total == terms["cross_entropy"]
    expected = angle_loss(batch["teacher"]["feature"][:3], outputs["feature"][:3])
    assert RKD(triplets=3).loss(batch, outputs, {})[1]["angle"] == expected
