"""Comprehensive distillation with causal intervention (Deng and Zhang 2021): features, classes, and their context."""

from dataclasses import dataclass
from typing import ClassVar

import keras
import tensorflow as tf

from utils import losses
from utils.methods.base import FeatureMethod


def sample_loss(teacher_features, regressed):
    """Squared distance of the teacher's features [B, d] and the student's regression on them, in units of the
    teacher's squared length, mean over the batch. A sample whose teacher features are all 0 counts as 0."""
    features = tf.stop_gradient(teacher_features)
    lengths = tf.reduce_sum(features**2, axis=-1)
    squares = tf.reduce_sum((regressed - features) ** 2, axis=-1)
    there = lengths > 1e-8
    return tf.reduce_mean(tf.where(there, squares / tf.where(there, lengths, 1), 0))


def class_loss(labels, teacher_features, student_features, classes):
    """How differently the two networks see the likeness of samples of one class.

    For each class with n ≥ 2 samples in the batch: the squared difference of the two networks' cosines between its
    samples, summed over pairs and divided by n²; mean over those classes, 0 if there is none.
    """

    def cosines(features):
        unit = tf.math.l2_normalize(features, axis=-1, epsilon=1e-12)
        return tf.matmul(unit, unit, transpose_b=True)

    member = tf.one_hot(labels, classes, dtype=student_features.dtype)  # [B, C]
    squares = (cosines(student_features) - cosines(tf.stop_gradient(teacher_features))) ** 2
    sums = tf.einsum("ik,ij,jk->k", member, squares, member)
    counts = tf.reduce_sum(member, axis=0)
    present = tf.cast(counts >= 2, sums.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(present * sums / tf.maximum(counts, 1) ** 2), tf.reduce_sum(present))


def class_context(labels, weights, features, classes):
    """Weighted sum of the features [B, d] of each class [C, d], and the sum of the weights [C]: their ratio is the
    class's context. The weights are the teacher's softened probabilities of the true class, [B]."""
    weighted = tf.one_hot(labels, classes, dtype=features.dtype) * weights[:, None]
    return tf.matmul(weighted, features, transpose_a=True), tf.reduce_sum(weighted, axis=0)


@keras.saving.register_keras_serializable("utils")
class Intervention(keras.layers.Layer):
    """Logits z' = W' [f; c] + b' with the sample's context c = Σ_k softmax(z / T)_k · context_k.

    Until there is a context, the logits z [B, C] pass through. The context [C, d] is remembered, not trained; it
    belongs to the deployed network.
    """

    def __init__(self, temperature, **options):
        super().__init__(**options)
        self.temperature = temperature

    def build(self, shapes):
        (_, width), (_, classes) = shapes
        self.kernel = self.add_weight(shape=(2 * width, classes), name="kernel")
        self.bias = self.add_weight(shape=(classes,), initializer="zeros", name="bias")
        self.context = self.add_weight(shape=(classes, width), initializer="zeros", trainable=False, name="context")
        self.ready = self.add_weight(shape=(), initializer="zeros", trainable=False, name="ready")

    def call(self, inputs):
        features, logits = inputs
        context = tf.matmul(tf.stop_gradient(tf.nn.softmax(logits / self.temperature)), self.context)
        intervened = tf.matmul(tf.concat([features, context], axis=-1), self.kernel) + self.bias
        return self.ready * intervened + (1 - self.ready) * logits

    def get_config(self):
        return super().get_config() | {"temperature": self.temperature}


class ContextMemory(keras.layers.Layer):
    """Sums over the present epoch, from which the next epoch's context is made."""

    def __init__(self, classes: int, width: int):
        super().__init__()
        options = {"initializer": "zeros", "trainable": False}
        self.sums = self.add_weight(shape=(classes, width), name="sums", **options)
        self.weights_seen = self.add_weight(shape=(classes,), name="weights_seen", **options)
        self.epoch = self.add_weight(shape=(), dtype="int64", name="epoch", **options)
        self.built = True


@dataclass(frozen=True, kw_only=True)
class CID(FeatureMethod):
    """In the first `context_after` epochs KL + sample_weight · L_s + class_weight · L_c, where labels only group
    images; then also CE, of an interventional head that is deployed with the student. `weight` is that of KL and CE.

    The context used in an epoch is that of the one before; it is exchanged after the epoch's first step. The weights
    are per pair of networks in the authors' code; these, and the two epochs, are ours.
    """

    weight: float = 1.0
    sample_weight: float = 10.0
    class_weight: float = 1.0
    temperature: float = 4.0
    context_after: int = 2

    name: ClassVar[str] = "cid"
    paper: ClassVar[str] = "Deng, Zhang. Comprehensive Knowledge Distillation with Causal Intervention. NeurIPS 2021"
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "distillation", "sample", "classes")

    @property
    def student_taps(self):
        return {"feature": self.student_layer, "plain": "logits"}

    def make_student(self, build_model, classes):
        plain = build_model(outputs=classes)
        parts = [plain.get_layer(self.student_layer).output, plain.outputs[0]]
        return keras.Model(plain.inputs, Intervention(self.temperature, name="intervention")(parts), name=plain.name)

    def make_heads(self, student, sizes):
        width = student.get_layer(self.student_layer).output.shape[-1]
        regressor = keras.Sequential([keras.Input((width,)), keras.layers.Dense(sizes.teacher["feature"][-1])])
        return {"regressor": regressor, "memory": ContextMemory(student.output_shape[-1], width)}

    def loss(self, batch, outputs, heads):
        theirs, ours, plain = batch["teacher"]["feature"], outputs["feature"], outputs["plain"]
        hard = losses.compute_plain_cross_entropy_loss(batch["label"], outputs["logits"])
        soft = losses.distillation_loss(batch["teacher"]["logits"], plain, self.temperature)
        sample = sample_loss(theirs, heads["regressor"](ours))
        by_class = class_loss(batch["label"], theirs, ours, plain.shape[-1])
        ce_counts = tf.cast(batch["epoch"] >= self.context_after, hard.dtype)
        total = self.weight * (ce_counts * hard + soft) + self.sample_weight * sample + self.class_weight * by_class
        return total, {"cross_entropy": hard, "distillation": soft, "sample": sample, "classes": by_class}

    def after_step(self, batch, outputs, student, heads):
        memory, head, epoch = heads["memory"], student.get_layer("intervention"), batch["epoch"]
        p = tf.nn.softmax(batch["teacher"]["logits"] / self.temperature)
        weights = tf.gather(p, batch["label"], axis=1, batch_dims=1)
        sums, seen = class_context(batch["label"], weights, outputs["feature"], p.shape[-1])
        # At the first step of an epoch, what the epoch before has gathered becomes the context; a class that was
        # absent from it keeps its old one.
        gathered = tf.math.divide_no_nan(memory.sums.value, memory.weights_seen[:, None])
        renew = (epoch > memory.epoch) & (memory.weights_seen > 0)
        head.context.assign(tf.where(renew[:, None], gathered, head.context.value))
        head.ready.assign(tf.cast(epoch >= self.context_after, sums.dtype))
        goes_on = tf.cast(epoch == memory.epoch, sums.dtype)
        memory.sums.assign(goes_on * memory.sums + sums)
        memory.weights_seen.assign(goes_on * memory.weights_seen + seen)
        memory.epoch.assign(epoch)
