"""Decoupled knowledge distillation (Zhao et al. 2022): the target class and the others have weights of their own."""

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from utils import losses
from utils.methods.base import Method, refuse_two_classes


def _split_by_target(labels, logits, temperature):
    """log p_y [B], log(1 - p_y) [B], the log-probabilities among the other classes [B, C], 0 at the target, and where
    the target is, bool [B, C]."""
    scaled = logits / temperature
    target = tf.one_hot(labels, tf.shape(logits)[-1], on_value=True, off_value=False, dtype=tf.bool)
    others = tf.where(target, tf.constant(float("-inf"), scaled.dtype), scaled)
    # Through logsumexp, since 1 - p_y is 0 in floating point where the teacher is certain.
    total, rest = tf.reduce_logsumexp(scaled, axis=-1), tf.reduce_logsumexp(others, axis=-1)
    at_target = tf.reduce_sum(tf.where(target, scaled, 0.0), axis=-1)
    return at_target - total, rest - total, tf.where(target, 0.0, scaled - rest[:, None]), target


def decoupled_terms(labels, teacher_logits, student_logits, temperature):
    """The two parts of KL(p_T ‖ p_S) at temperature T, each [B], not yet scaled by T².

    TCKD = KL((p_y, 1 - p_y) of the teacher ‖ of the student), and NCKD = KL among the classes other than y,
    renormalised. KL = TCKD + (1 - p_y of the teacher) · NCKD, for every row.
    """
    losses.check_temperature(temperature)
    hit_t, miss_t, others_t, target = _split_by_target(labels, tf.stop_gradient(teacher_logits), temperature)
    hit_s, miss_s, others_s, _ = _split_by_target(labels, student_logits, temperature)
    target_part = tf.exp(hit_t) * (hit_t - hit_s) + tf.exp(miss_t) * (miss_t - miss_s)
    other_part = tf.reduce_sum(tf.where(target, 0.0, tf.exp(others_t) * (others_t - others_s)), axis=-1)
    return target_part, other_part


@dataclass(frozen=True)
class DKD(Method):
    """CE + warm-up · T² · (alpha · TCKD + beta · NCKD); the warm-up rises from 1/w in the first of w epochs to 1.

    Of the defaults, two epochs of warm-up are ours (the authors' code has 20 of 240).
    """

    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0
    warmup: int = 2  # epochs

    name: ClassVar[str] = "dkd"
    paper: ClassVar[str] = "Zhao, Cui, Song, Qiu, Liang. Decoupled Knowledge Distillation. CVPR 2022, arXiv:2203.08679"
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "target", "others")

    def make_student(self, build_model, classes):
        refuse_two_classes(self.name, classes, "with one class beside the target NCKD is 0 and beta has no effect.")
        return build_model(outputs=classes)

    def loss(self, batch, outputs, heads):
        hard = losses.compute_plain_cross_entropy_loss(batch["label"], outputs["logits"])
        parts = decoupled_terms(batch["label"], batch["teacher"]["logits"], outputs["logits"], self.temperature)
        target, others = (self.temperature**2 * tf.reduce_mean(part) for part in parts)
        ramp = tf.minimum((tf.cast(batch["epoch"], hard.dtype) + 1) / max(self.warmup, 1), 1.0)
        total = hard + ramp * (self.alpha * target + self.beta * others)
        return total, {"cross_entropy": hard, "target": target, "others": others}
