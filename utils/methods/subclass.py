"""Subclass distillation (Müller, Kornblith, Hinton 2020): a teacher that invents subclasses has more to tell."""

from dataclasses import dataclass
from typing import ClassVar

import keras
import tensorflow as tf

from utils import losses
from utils.methods.base import Method, architecture
from utils.methods.kd import KD


@keras.saving.register_keras_serializable("utils")
class ClassLogits(keras.layers.Layer):
    """Logits of classes from those of their subclasses: z_k = log Σ exp u_j over the subclasses j of class k.

    So softmax(z)_k is the sum of the probabilities of the class's subclasses. `class_of[j]` is the class of column j.
    """

    def __init__(self, class_of, **options):
        super().__init__(**options)
        self.class_of = tuple(int(k) for k in class_of)
        if set(self.class_of) != set(range(len(set(self.class_of)))):
            raise ValueError(f"class_of is {self.class_of}; it must name every class from 0 up at least once.")

    def call(self, logits):
        if logits.shape[-1] != len(self.class_of):
            raise ValueError(
                f"class_of names {len(self.class_of)} subclasses, but there are {logits.shape[-1]} logits."
            )
        columns = [[j for j, k in enumerate(self.class_of) if k == c] for c in range(len(set(self.class_of)))]
        return tf.stack([tf.reduce_logsumexp(tf.gather(logits, own, axis=-1), axis=-1) for own in columns], axis=-1)

    def get_config(self):
        return super().get_config() | {"class_of": self.class_of}


def with_subclasses(build_model, class_of) -> keras.Model:
    """The network with a logit for each subclass (its layer "logits"), and the class logits as its output."""
    plain = build_model(outputs=len(class_of))
    return keras.Model(plain.inputs, ClassLogits(class_of, name="class_logits")(plain.outputs[0]), name=plain.name)


def auxiliary_loss(subclass_logits, temperature=1.0):
    """What makes a teacher use all its subclasses: its samples' logits [B, n] are to point in different directions.

    v = standardized logits of length 1; the loss is mean_i log Σ_j exp(<v_i, v_j> / T_a) - 1/T_a - log B, at most 0,
    and 0 where all rows agree. T_a is no distillation temperature. Values of different B cannot be compared.
    """
    losses.check_temperature(temperature)
    mean, variance = tf.nn.moments(subclass_logits, axes=[-1], keepdims=True)
    width = tf.cast(tf.shape(subclass_logits)[-1], subclass_logits.dtype)
    v = (subclass_logits - mean) / tf.sqrt(variance + 1e-9) / tf.sqrt(width)
    pairs = tf.reduce_logsumexp(tf.matmul(v, v, transpose_b=True) / temperature, axis=-1)
    return tf.reduce_mean(pairs) - 1 / temperature - tf.math.log(tf.cast(tf.shape(v)[0], v.dtype))


@dataclass(frozen=True)
class SubclassTeacher(Method):
    """Cross-entropy of the classes + beta · auxiliary loss of the subclasses, for a head of `subclasses` per class."""

    subclasses: int = 5
    beta: float = 1.0
    auxiliary_temperature: float = 1.0

    name: ClassVar[str] = "subclass_teacher"
    paper: ClassVar[str] = "Müller, Kornblith, Hinton. Subclass Distillation. arXiv:2002.03936, 2020"
    needs_teacher: ClassVar[bool] = False
    student_taps: ClassVar[dict[str, str]] = {"subclass": "logits"}
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "auxiliary")

    def make_student(self, build_model, classes):
        return with_subclasses(build_model, [k for k in range(classes) for _ in range(self.subclasses)])

    def loss(self, batch, outputs, heads):
        hard = losses.compute_plain_cross_entropy_loss(batch["label"], outputs["logits"])
        spread = auxiliary_loss(outputs["subclass"], self.auxiliary_temperature)
        return hard + self.beta * spread, {"cross_entropy": hard, "auxiliary": spread}


def subclass_distillation(hard, batch, outputs, alpha, temperature):
    """(1 - alpha) · hard + alpha · T² · KL of the subclasses, and the two terms; `hard` is a scalar."""
    soft = losses.distillation_loss(batch["teacher"]["subclass"], outputs["subclass"], temperature)
    return (1 - alpha) * hard + alpha * soft, {"cross_entropy": hard, "distillation": soft}


@dataclass(frozen=True)
class Subclass(Method):
    """(1 - alpha) · CE of the classes + alpha · T² · KL of the subclasses, from a teacher that is trained for it.

    The authors' code writes a soft cross-entropy for the KL: the gradient is the same. beta and
    auxiliary_temperature are those of `SubclassTeacher`.
    """

    subclasses: int = 5
    alpha: float = 0.5
    temperature: float = 4.0
    beta: float = 1.0
    auxiliary_temperature: float = 1.0

    name: ClassVar[str] = "subclass"
    paper: ClassVar[str] = SubclassTeacher.paper
    teacher_taps: ClassVar[dict[str, str]] = {"subclass": "logits"}
    student_taps: ClassVar[dict[str, str]] = {"subclass": "logits"}
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "distillation")

    def __post_init__(self):
        KD(self.alpha, self.temperature)  # which refuses what it cannot use

    def prepare_teacher(self, train, teacher, build_student):
        own = SubclassTeacher(self.subclasses, self.beta, self.auxiliary_temperature)
        return train(architecture(teacher, self.name), own)

    def make_student(self, build_model, classes):
        return with_subclasses(build_model, [k for k in range(classes) for _ in range(self.subclasses)])

    def loss(self, batch, outputs, heads):
        hard = losses.compute_plain_cross_entropy_loss(batch["label"], outputs["logits"])
        return subclass_distillation(hard, batch, outputs, self.alpha, self.temperature)
