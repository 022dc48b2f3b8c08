import numpy as np
import pytest
import tensorflow as tf

from tests.methods.fixtures import LABELS, Z_S, Z_T, T, both_precisions, gradient
from utils import losses
from utils.methods import KD, Ensemble
from utils.methods.ensemble import ensemble_logits

SECOND = [[0.5, 2.5, 0], [1, -0.5, 2]]


@both_precisions
def test_worked_numbers(to, close):
    members = tf.stack([to(Z_T), to(SECOND)], axis=1)
    mean = ensemble_logits(members, T)
    close(
        tf.nn.softmax(mean / T),
        [[0.3498680122, 0.3956531743, 0.2544788135], [0.2932321196, 0.2572482671, 0.4495196134]],
    )
    together = losses.distillation_loss(mean, to(Z_S), T)
    close(together, 0.0650868038, 10)
    each = [losses.distillation_loss(z, to(Z_S), T) for z in (to(Z_T), to(SECOND))]
    close(sum(each) / 2, 0.2070184552, 10)
    close(sum(each) / 2 - together, 0.1419316514, 10)
    by_logits = tf.reduce_mean(members, axis=1)
    close(
        tf.nn.softmax(by_logits / T),
        [[0.3479511468, 0.3942803037, 0.2577685495], [0.2914324229, 0.2571882105, 0.4513793666]],
    )
    close(losses.distillation_loss(by_logits, to(Z_S), T), 0.0647105925, 10)


@both_precisions
def test_the_method_distils_the_mean_it_was_asked_for(to, close):
    members = tf.stack([to(Z_T), to(SECOND)], axis=1)
    batch = {"label": LABELS, "teacher": {"members": members, "logits": to(Z_T)}}
    for average, expected in (("probabilities", 0.0650868038), ("logits", 0.0647105925)):
        close(Ensemble(1.0, T, average).loss(batch, {"logits": to(Z_S)}, {})[0], expected, 10)


@both_precisions
def test_the_teachers_one_by_one_pull_as_their_mean_does(to, close):
    members = tf.stack([to(Z_T), to(SECOND)], axis=1)
    batch = {"label": LABELS, "teacher": {"members": members, "logits": to(Z_T)}}

    def together(z):
        return Ensemble(0.4, T).loss(batch, {"logits": z}, {})[0]

    def one_by_one(z):
        each = [KD(0.4, T).loss(batch | {"teacher": {"logits": to(t)}}, {"logits": z}, {})[0] for t in (Z_T, SECOND)]
        return sum(each) / 2

    close(gradient(one_by_one, to(Z_S)), gradient(together, to(Z_S)))
    close(one_by_one(to(Z_S)) - together(to(Z_S)), 0.4 * 0.1419316514, 10)


def test_one_teacher_or_another_average_is_refused_in_words():
    with pytest.raises(ValueError, match="pass a tuple"):
        Ensemble().loss({"label": LABELS, "teacher": {"logits": np.zeros((2, 3))}}, {}, {})
    with pytest.raises(ValueError, match="average is 'median'"):
        Ensemble(average="median")
