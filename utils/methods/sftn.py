"""Student-friendly teachers (Park et al. 2021): a teacher trained together with copies of the student's tail."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import keras
import tensorflow as tf

from utils import losses
from utils.methods.base import Method, architecture
from utils.methods.kd import KD
from utils.models import mnist_student


def imitation_loss(teacher_logits, branch_logits, temperature=1.0, reverse=False):
    """KL(teacher ‖ branch) at temperature T, mean over the batch, without T²; `reverse` swaps the two.

    Nothing is stopped here: that the gradient reaches the teacher is what makes it friendly.
    """
    losses.check_temperature(temperature)
    log_p, log_q = (tf.nn.log_softmax(z / temperature) for z in (teacher_logits, branch_logits))
    if reverse:
        log_p, log_q = log_q, log_p
    return tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1))


def branch(taught_shape, student: keras.Model, entry: str) -> keras.Model:
    """A teacher's layer, fitted to what follows `entry` in the student: [B, *taught_shape] -> logits [B, C].

    A map is pooled by 5x5 (MNIST's 25x25 to 5x5) and flattened; a dense layer gives the width of `entry`, with its
    activation (ReLU where it has none, as after pooling), and the layers of `student` after it the logits. Those belong
    to the branch: give each a student of its own.
    """
    *space, _ = taught_shape
    given = keras.Input(taught_shape)
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(5)(given) if space else given)
    layer = student.get_layer(entry)
    x = keras.layers.Dense(layer.output.shape[-1], activation=getattr(layer, "activation", "relu"))(x)
    tail = keras.Model(layer.output, student.outputs[0])
    return keras.Model(given, tail(x))


@dataclass(frozen=True)
class FriendlyTeacher(Method):
    """ce_weight · CE(teacher) + branch · mean CE(branches) + imitation · mean KL(teacher ‖ branches).

    entries   ((layer of the teacher, layer of the student that its branch replaces), ...)
    student   the function that makes the student whose tails the branches end in
    The weights 1, 1, 3, the temperature 1 and the order of the KL are from memory of the paper, not verified.
    """

    student: Callable = mnist_student
    entries: tuple = (("pool1", "fc1"), ("fc", "fc2"))
    ce_weight: float = 1.0
    branch: float = 1.0
    imitation: float = 3.0
    temperature: float = 1.0
    reverse: bool = False

    name: ClassVar[str] = "friendly_teacher"
    paper: ClassVar[str] = (
        "Park, Cha, Jeong, Kim, Han. Learning Student-Friendly Teacher Networks for Knowledge Distillation. "
        "NeurIPS 2021, arXiv:2102.07650"
    )
    needs_teacher: ClassVar[bool] = False
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "branches", "imitation")

    @property
    def student_taps(self):
        return {layer: layer for layer, _ in self.entries}

    def make_heads(self, student, sizes):
        classes = student.output_shape[-1]
        return {
            layer: branch(student.get_layer(layer).output.shape[1:], self.student(outputs=classes), entry)
            for layer, entry in self.entries
        }

    def loss(self, batch, outputs, heads):
        labels, logits = batch["label"], outputs["logits"]
        answers = [heads[layer](outputs[layer]) for layer, _ in self.entries]
        n = len(answers)
        hard = losses.compute_plain_cross_entropy_loss(labels, logits)
        branches = tf.add_n([losses.compute_plain_cross_entropy_loss(labels, z) for z in answers]) / n
        alike = tf.add_n([imitation_loss(logits, z, self.temperature, self.reverse) for z in answers]) / n
        total = self.ce_weight * hard + self.branch * branches + self.imitation * alike
        return total, {"cross_entropy": hard, "branches": branches, "imitation": alike}


@dataclass(frozen=True)
class SFTN(KD):
    """KD from a student-friendly teacher, which is trained first. imitation weighs the branches' KL there."""

    imitation: float = 3.0
    entries: tuple = FriendlyTeacher.entries

    name: ClassVar[str] = "sftn"
    paper: ClassVar[str] = FriendlyTeacher.paper

    def prepare_teacher(self, train, teacher, build_student):
        own = FriendlyTeacher(student=build_student, entries=self.entries, imitation=self.imitation)
        return train(architecture(teacher, self.name), own)
