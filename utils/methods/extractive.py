"""Extractive knowledge distillation (Kobayashi 2022): keep of the teacher's answer what exceeds a uniform guess.

Neither the paper's text nor its code could be read for this project. What stands here is the common part of two
public re-implementations, whose details differ; the smoothing and the L1 normalisation are this project's choice.
"""

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from utils import losses
from utils.methods.base import Method, refuse_two_classes


def extracted_target(teacher_logits, temperature, smoothing):
    """q = (1 - ε) · d / Σd + ε / C with d = max(softmax(z_T / T) - 1/C, 0): a distribution [B, C], no gradient."""
    losses.check_temperature(temperature)
    p = tf.nn.softmax(tf.stop_gradient(teacher_logits) / temperature)
    uniform = 1 / p.shape[-1]
    excess = tf.maximum(p - uniform, 0)
    return (1 - smoothing) * excess / (tf.reduce_sum(excess, axis=-1, keepdims=True) + 1e-12) + smoothing * uniform


def extractive_loss(target, student_logits, temperature):
    """T_S · cross-entropy of softmax(z_S / T_S) with the target [B, C]; its gradient is (softmax - target) / B."""
    losses.check_temperature(temperature)
    log_q = tf.nn.log_softmax(student_logits / temperature)
    return -temperature * tf.reduce_mean(tf.reduce_sum(target * log_q, axis=-1))


@dataclass(frozen=True)
class Extractive(Method):
    """ce_weight · CE + weight · T_S · CE(q, softmax(z_S / T_S)). The defaults are ours."""

    ce_weight: float = 0.5
    weight: float = 0.5
    teacher_temperature: float = 4.0
    student_temperature: float = 1.0
    smoothing: float = 0.1

    name: ClassVar[str] = "extractive"
    paper: ClassVar[str] = "Kobayashi. Extractive Knowledge Distillation. WACV 2022"
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "extracted")

    def make_student(self, build_model, classes):
        left = "only one of two classes can exceed 1/2, and the target is a smoothed label."
        refuse_two_classes(self.name, classes, left)
        return build_model(outputs=classes)

    def loss(self, batch, outputs, heads):
        hard = losses.compute_plain_cross_entropy_loss(batch["label"], outputs["logits"])
        target = extracted_target(batch["teacher"]["logits"], self.teacher_temperature, self.smoothing)
        soft = extractive_loss(target, outputs["logits"], self.student_temperature)
        return self.ce_weight * hard + self.weight * soft, {"cross_entropy": hard, "extracted": soft}
