"""Relational knowledge distillation (Park et al. 2019): match the distances and angles among the samples of a batch."""

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from utils.methods.base import FeatureMethod
from utils.methods.kd import KD


def _products(features):
    """Inner products of the centred features [n, d] with each other, [n, n], and their squared distances, [n, n].

    Neither distances nor angles change when all features are moved; centred, they lose fewer digits.
    """
    centred = features - tf.reduce_mean(features, axis=0)
    products = tf.matmul(centred, centred, transpose_b=True)
    squares = tf.linalg.diag_part(products)
    return products, tf.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)


def _lengths(squared):
    """Square roots of squared distances, 0 without a gradient where two samples coincide (to rounding), and whether
    they don't. The root of 0 has an infinite slope, so it is kept out of the gradient from within."""
    apart = squared > 1e-6 * tf.reduce_mean(squared)
    return tf.where(apart, tf.sqrt(tf.where(apart, squared, tf.ones_like(squared))), tf.zeros_like(squared)), apart


def _huber(difference):
    size = tf.abs(difference)
    return tf.where(size <= 1, difference**2 / 2, size - 0.5)


def distance_loss(teacher_features, student_features):
    """Huber loss between the two networks' pairwise distances, each in units of its own mean, mean over all n²."""

    def relative(features):
        distances, apart = _lengths(_products(features)[1])
        count = tf.maximum(tf.reduce_sum(tf.cast(apart, distances.dtype)), 1)
        mean = tf.reduce_sum(distances) / count
        return tf.math.divide_no_nan(distances, mean)

    return tf.reduce_mean(_huber(relative(student_features) - tf.stop_gradient(relative(teacher_features))))


def angle_loss(teacher_features, student_features):
    """Huber loss between the cosines of the angles at j in all triplets (i, j, k), mean over all n³."""

    def cosines(features):
        products, squared = _products(features)
        lengths, apart = _lengths(squared)
        # <f_i - f_j, f_k - f_j> from inner products alone, [j, i, k]
        inner = products[None] - products[:, :, None] - products[:, None, :]
        inner += tf.linalg.diag_part(products)[:, None, None]
        both = apart[:, :, None] & apart[:, None, :]
        scale = tf.where(both, lengths[:, :, None] * lengths[:, None, :], tf.ones_like(inner))
        return tf.where(both, inner / scale, tf.zeros_like(inner))

    return tf.reduce_mean(_huber(cosines(student_features) - tf.stop_gradient(cosines(teacher_features))))


@dataclass(frozen=True, kw_only=True)
class RKD(FeatureMethod):
    """(1 - alpha) · CE + alpha · T² · KL + distance · L_D + angle · L_A; alpha = 0 leaves out the KL.

    triplets   the angles are taken among the first so many samples of the batch, since their number is cubed
    """

    distance: float = 25.0
    angle: float = 50.0
    alpha: float = 0.0
    temperature: float = 4.0
    triplets: int = 64

    name: ClassVar[str] = "rkd"
    paper: ClassVar[str] = "Park, Kim, Lu, Cho. Relational Knowledge Distillation. CVPR 2019, arXiv:1904.05068"
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "distillation", "distance", "angle")

    def __post_init__(self):
        KD(self.alpha, self.temperature)  # which refuses what it cannot use

    def loss(self, batch, outputs, heads):
        mixed, terms = KD(self.alpha, self.temperature).loss(batch, outputs, heads)
        theirs, ours = batch["teacher"]["feature"], outputs["feature"]
        distance, angle = distance_loss(theirs, ours), angle_loss(theirs[: self.triplets], ours[: self.triplets])
        return mixed + self.distance * distance + self.angle * angle, terms | {"distance": distance, "angle": angle}
