"""Distilling an ensemble of teachers (Bucila, Caruana, Niculescu-Mizil 2006; Hinton, Vinyals, Dean 2015)."""

from dataclasses import dataclass
from typing import ClassVar

import keras
import tensorflow as tf

from utils import losses
from utils.methods.kd import KD


def ensemble_logits(members, temperature):
    """Logits [B, C] whose softmax at temperature T is the mean of the members' [B, M, C] softened probabilities."""
    losses.check_temperature(temperature)
    log_p = tf.nn.log_softmax(tf.stop_gradient(members) / temperature)
    return temperature * (tf.reduce_logsumexp(log_p, axis=1) - tf.math.log(tf.cast(tf.shape(members)[1], log_p.dtype)))


@dataclass(frozen=True)
class Ensemble(KD):
    """KD from several teachers, given as `teacher=(run, run, run)`: their mean probability at T, or mean logits."""

    average: str = "probabilities"  # or "logits"
    several_teachers: ClassVar[bool] = True

    name: ClassVar[str] = "ensemble"
    paper: ClassVar[str] = "Bucila, Caruana, Niculescu-Mizil. Model Compression. KDD 2006; Hinton et al. 2015"

    def __post_init__(self):
        super().__post_init__()
        if self.average not in ("probabilities", "logits"):
            raise ValueError(f"average is {self.average!r}; it can be 'probabilities' or 'logits'.")

    def loss(self, batch, outputs, heads):
        if "members" not in batch["teacher"]:
            raise ValueError("'ensemble' distils several teachers: pass a tuple, teacher=(first, second, third).")
        members = batch["teacher"]["members"]
        by_probability = self.average == "probabilities"
        target = ensemble_logits(members, self.temperature) if by_probability else tf.reduce_mean(members, axis=1)
        return super().loss(batch | {"teacher": {"logits": target}}, outputs, heads)


class OneForAll(keras.layers.Layer):
    """Several teachers as one: images [B, H, W, C] -> the logits [B, classes] that `Ensemble` distils.

    The temperature (infinite for the mean of logits, the limit) is a weight, since cached answers are found by the
    weights of who gave them, and at another temperature this teacher gives others. At T = 1 its logits are not the
    mean probability: what a record says of agreement and KL is against what was distilled.
    """

    def __init__(self, teachers: list[keras.Model], method: Ensemble):
        super().__init__(name="one_for_all", trainable=False)
        self.teachers, self.method = teachers, method
        value = method.temperature if method.average == "probabilities" else float("inf")
        self.add_weight(name="temperature", shape=(), initializer=keras.initializers.Constant(value), trainable=False)

    def call(self, images):
        members = tf.stack([teacher(images, training=False) for teacher in self.teachers], axis=1)
        if self.method.average == "logits":
            return tf.reduce_mean(members, axis=1)
        return ensemble_logits(members, self.method.temperature)
