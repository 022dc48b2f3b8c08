import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tests.methods.fixtures import both_precisions, gradient
from utils.methods import KD, FitNets, Sizes
from utils.methods.fitnets import Hint, hint_loss

F_S = [[1, 2], [0, -1]]
F_T = [[2, 0, 4], [-1, 0, -2]]
W = [[0.5, -1, 0], [1, 0.25, 2]]
BIAS = [0.1, 0, -0.2]


@both_precisions
def test_worked_numbers(to, close):
    def regressed(w):
        return tf.matmul(to(F_S), w) + to(BIAS)

    close(regressed(to(W)), [[2.6, -0.5, 3.8], [-0.9, -0.25, -2.2]])
    close(hint_loss(to(F_T), regressed(to(W))), 0.190625)
    close(2 / 3 * hint_loss(to(F_T), regressed(to(W))), 0.1270833333)  # the mean over all elements
    close(hint_loss(to(F_T), tf.nn.relu(regressed(to(W)))), 1.35)
    (slope,) = gradient(lambda w: hint_loss(to(F_T), regressed(w)), to(W))
    close(slope, [[0.3, -0.25, -0.1], [0.55, -0.375, -0.1]])


def student(shape=(4, 4, 1)):
    body = [layers.Flatten(), layers.Dense(6, "relu", name="fc1"), layers.Dense(5, name="fc2"), layers.Dense(3)]
    return keras.Sequential([keras.Input(shape), *body])


def test_the_first_stage_trains_the_guided_layers_and_the_regressor_only():
    (hint, first), (method, second) = FitNets(hint_epochs=2).stages(12)
    assert (first, second) == (2, 12) and method == FitNets(hint_epochs=2)
    net = student()
    heads = hint.make_heads(net, Sizes(teacher={"logits": (3,), "feature": (8,)}))
    assert heads["regressor"].count_params() == 6 * 8 + 8
    trained = {id(v) for v in hint.trained_variables(net, heads)}
    assert trained == {id(v) for v in net.get_layer("fc1").trainable_variables + heads["regressor"].trainable_variables}
    assert method.make_heads(net, Sizes()) == {}


def test_without_hint_epochs_it_is_kd():
    assert FitNets(0.3, 2.0, hint_epochs=0).stages(5) == [(FitNets(0.3, 2.0, hint_epochs=0), 5)]
    batch = {"label": np.array([0], np.int32), "teacher": {"logits": tf.constant([[1.0, 2.0, 3.0]])}}
    outputs = {"logits": tf.constant([[0.5, 0.0, 1.0]])}
    assert FitNets(0.3, 2.0).loss(batch, outputs, {})[0] == KD(0.3, 2.0).loss(batch, outputs, {})[0]


def test_maps_are_regressed_by_a_1x1_convolution():
    net = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(5, 1, name="fc1"), layers.Flatten(), layers.Dense(3)])
    heads = Hint(student_layer="fc1", activation=None).make_heads(net, Sizes(teacher={"feature": (4, 4, 7)}))
    assert heads["regressor"].count_params() == 5 * 7 + 7
    found = heads["regressor"](tf.zeros([2, 4, 4, 5]))
    assert hint_loss(tf.ones([2, 4, 4, 7]), found) == 4 * 4 * 7 / 2


def test_the_mnist_regressor_has_the_size_the_assignments_layers_give():
    from utils.models import mnist_student

    heads = Hint(student_layer="fc1").make_heads(mnist_student(), Sizes(teacher={"feature": (128,)}))
    assert heads["regressor"].count_params() == 100_480
