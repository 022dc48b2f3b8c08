"""DIST (Huang et al. 2022): match the relations between predictions, by correlation, instead of the predictions."""

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from utils import losses
from utils.methods.base import Method, refuse_two_classes


def correlation(first, second, epsilon=1e-8):
    """Pearson's correlation of each row of two [n, m] tensors, [n]; 0, without a gradient, where a row is constant."""
    first, second = (x - tf.reduce_mean(x, axis=-1, keepdims=True) for x in (first, second))
    squares = [tf.reduce_sum(x**2, axis=-1) for x in (first, second)]
    varied = (squares[0] > 1e-12) & (squares[1] > 1e-12)
    # The inner `where` keeps the square root's infinite slope at 0 out of the gradient, the outer one its value.
    lengths = [tf.sqrt(tf.where(varied, s, tf.ones_like(s))) for s in squares]
    products = tf.reduce_sum(first * second, axis=-1)
    return tf.where(varied, products / (lengths[0] * lengths[1] + epsilon), tf.zeros_like(products))


def relation_terms(teacher_logits, student_logits, temperature, epsilon=1e-8):
    """(inter, intra): 1 minus the mean correlation of the softened predictions with the teacher's, over each
    sample's classes and over each class's samples. Scalars, not yet scaled by T²."""
    losses.check_temperature(temperature)
    p = tf.nn.softmax(tf.stop_gradient(teacher_logits) / temperature)
    q = tf.nn.softmax(student_logits / temperature)
    inter = 1 - tf.reduce_mean(correlation(q, p, epsilon))
    intra = 1 - tf.reduce_mean(correlation(tf.transpose(q), tf.transpose(p), epsilon))
    return inter, intra


@dataclass(frozen=True)
class DIST(Method):
    """CE + weight · T² · (inter · L_inter + intra · L_intra). The authors' code has weight 2; ours is a quarter."""

    weight: float = 0.5
    temperature: float = 4.0
    inter: float = 1.0
    intra: float = 1.0

    name: ClassVar[str] = "dist"
    paper: ClassVar[str] = (
        "Huang, You, Wang, Qian, Xu. Knowledge Distillation from A Stronger Teacher. NeurIPS 2022, arXiv:2205.10536"
    )
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "inter", "intra")

    def make_student(self, build_model, classes):
        if self.inter:
            left = "each sample's two probabilities correlate by +1 or -1 (DIST(inter=0) still works)."
            refuse_two_classes(self.name, classes, left)
        return build_model(outputs=classes)

    def loss(self, batch, outputs, heads):
        hard = losses.compute_plain_cross_entropy_loss(batch["label"], outputs["logits"])
        parts = relation_terms(batch["teacher"]["logits"], outputs["logits"], self.temperature)
        inter, intra = (self.temperature**2 * part for part in parts)
        total = hard + self.weight * (self.inter * inter + self.intra * intra)
        return total, {"cross_entropy": hard, "inter": inter, "intra": intra}
