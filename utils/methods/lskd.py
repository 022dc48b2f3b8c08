"""Logit standardization (Sun et al. 2024): match logits up to shift and scale, not their magnitude."""

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from utils import losses
from utils.methods.base import Method, refuse_two_classes


def standardized(logits, epsilon=1e-7):
    """Each row of logits [B, C] minus its mean, over its standard deviation (n - 1); 0 where a row is constant."""
    centred = logits - tf.reduce_mean(logits, axis=-1, keepdims=True)
    variance = tf.reduce_sum(centred**2, axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    varied = variance > 1e-12
    spread = tf.sqrt(tf.where(varied, variance, tf.ones_like(variance)))  # the root of 0 has no finite slope
    return tf.where(varied, centred / (spread + epsilon), tf.zeros_like(centred))


def standardized_distillation_loss(teacher_logits, student_logits, temperature):
    """T² · KL between the softmax of the standardized logits over T; unchanged by z → a z + b with a > 0."""
    return losses.distillation_loss(standardized(teacher_logits), standardized(student_logits), temperature)


@dataclass(frozen=True)
class LSKD(Method):
    """ce_weight · CE + weight · T² · KL of the standardized logits; the cross-entropy reads the logits as they are."""

    ce_weight: float = 0.1
    weight: float = 9.0
    temperature: float = 2.0

    name: ClassVar[str] = "lskd"
    paper: ClassVar[str] = (
        "Sun, Ren, Li, Wang, Cao. Logit Standardization in Knowledge Distillation. CVPR 2024, arXiv:2403.01427"
    )
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "distillation")

    def make_student(self, build_model, classes):
        refuse_two_classes(self.name, classes, "two standardized logits are always +c and -c, only their order counts.")
        return build_model(outputs=classes)

    def loss(self, batch, outputs, heads):
        hard = losses.compute_plain_cross_entropy_loss(batch["label"], outputs["logits"])
        soft = standardized_distillation_loss(batch["teacher"]["logits"], outputs["logits"], self.temperature)
        return self.ce_weight * hard + self.weight * soft, {"cross_entropy": hard, "distillation": soft}
