import numpy as np
import pytest
import tensorflow as tf

from tests.methods.fixtures import both_precisions, finite, gradient
from utils.methods import DIST
from utils.methods.dist import correlation, relation_terms

Z_S = [[1, 2, 0.5], [0.2, -0.3, 1.1], [0, 1, 0.3], [0.4, 0.1, -0.2]]
Z_T = [[2, 1, 0.1], [0, 0.5, 2.5], [-0.5, 1.5, 0], [1, 0, -1]]


@both_precisions
def test_worked_numbers(to, close):
    p, q = tf.nn.softmax(to(Z_T)), tf.nn.softmax(to(Z_S))
    close(correlation(q, p, 0), [-0.0976217111, 0.9677662479, 0.9948553692, 0.9847296605], 2)
    close(correlation(tf.transpose(q), tf.transpose(p), 0), [0.5994386470, 0.5427322005, 0.9736872248], 2)
    for temperature, inter, intra, scaled in (
        (1.0, 0.2875676084, 0.2947139759, 0.5822815843),
        (4.0, 0.2294594052, 0.2716218603, 8.0173002479),
    ):
        found = relation_terms(to(Z_T), to(Z_S), temperature, epsilon=0)
        close(found[0], inter, 10)
        close(found[1], intra, 10)
        close(temperature**2 * (found[0] + found[1]), scaled, 20)


@both_precisions
def test_the_terms_are_weighed_as_the_method_says(to, close):
    batch = {"label": np.array([0, 2, 1, 0], np.int32), "teacher": {"logits": to(Z_T)}}
    total, terms = DIST(2.0, 4.0, inter=3.0, intra=5.0).loss(batch, {"logits": to(Z_S)}, {})
    expected = 2 * 16 * (3 * 0.2294594052 + 5 * 0.2716218603)
    np.testing.assert_allclose(total - terms["cross_entropy"], expected, rtol=1e-5)


@both_precisions
def test_it_is_blind_to_scale_and_shift_of_the_probabilities_and_0_where_they_agree(to, close):
    p, q = tf.nn.softmax(to(Z_T)), tf.nn.softmax(to(Z_S))
    close(correlation(3 * q + 0.5, p, 0), correlation(q, p, 0), 20)
    close(relation_terms(to(Z_T), to(Z_T), 4.0, epsilon=0), [0.0, 0.0], 2)


@both_precisions
def test_with_two_classes_only_the_intra_part_says_anything(to, close):
    p, q = (tf.nn.softmax(to(z)) for z in ([[2, 0.1], [1, 0.2], [-1, 1]], [[1, 0.2], [0.3, 0.9], [0, 2]]))
    close(correlation(q, p, 0), [1.0, -1.0, 1.0], 10)
    close(correlation(tf.transpose(q), tf.transpose(p), 0), [0.9236451453] * 2, 20)
    with pytest.raises(ValueError, match=r"collapses with 2 classes.*inter=0"):
        DIST().make_student(None, 2)
    assert DIST(inter=0.0).make_student(lambda outputs: outputs, 2) == 2


def test_constant_rows_leave_finite_gradients():
    z_s, z_t = tf.constant([[1.0, 1.0, 1.0], [300.0, 0.0, 0.0]]), tf.constant([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]])
    (found,) = gradient(lambda z: sum(relation_terms(z_t, z, 1.0)), z_s)
    assert finite(found) and np.abs(found).max() < 1e3
    alone = relation_terms(z_t[:1], z_t[:1] + 1, 1.0)  # one sample has no correlation over samples
    np.testing.assert_allclose(alone, [0.0, 1.0], atol=1e-6)
