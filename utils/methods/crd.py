"""Contrastive representation distillation (Tian, Krishnan, Isola 2020): tell the same image from others."""

import random
from dataclasses import dataclass
from typing import ClassVar

import keras
import tensorflow as tf

from utils import losses
from utils.methods.base import FeatureMethod
from utils.methods.kd import KD


def noise_contrastive_loss(positive, negative, counted, images, epsilon=1e-7):
    """-mean_i [log h(i, i) + Σ_j log(1 - h(i, j))], with h = P / (P + K_i / M) for the scores P.

    positive [B] and negative [B, K] are scores above 0, counted [B, K] says which negatives count for which sample,
    K_i of them; images is M.
    """
    counts = tf.cast(counted, positive.dtype)
    noise = tf.reduce_sum(counts, axis=-1) / tf.cast(images, positive.dtype)
    same = tf.math.log(positive / (positive + noise + epsilon))
    # A sample without negatives has no noise and no terms: 1 keeps its logarithm finite.
    safe = tf.where(noise > 0, noise, tf.ones_like(noise))[:, None]
    different = tf.math.log(safe / (negative + safe + epsilon)) * counts
    return -tf.reduce_mean(same + tf.reduce_sum(different, axis=-1))


def in_batch_contrast(anchors, others, labels, temperature):
    """InfoNCE of unit vectors [B, d] with negatives from the batch's other classes:
    mean_i [log Σ_{j: y_j ≠ y_i or j = i} exp(s_ij) - s_ii], with s = anchors · others / temperature."""
    scores = tf.matmul(anchors, others, transpose_b=True) / temperature
    itself = tf.eye(tf.shape(labels)[0], dtype=tf.bool)
    counted = (labels[:, None] != labels[None, :]) | itself
    kept = tf.where(counted, scores, tf.constant(float("-inf"), scores.dtype))
    return tf.reduce_mean(tf.reduce_logsumexp(kept, axis=-1) - tf.linalg.diag_part(scores))


def renewed(rows, vectors, momentum):
    """Memory rows moved toward new vectors, at length 1: normalised momentum · row + (1 - momentum) · vector."""
    return tf.math.l2_normalize(momentum * rows + (1 - momentum) * vectors, axis=-1)


class Memory(keras.layers.Layer):
    """What the student and the teacher last said of every training image, [M, d] each, and the images' labels, -1
    until an image was seen. Nothing of it is trained."""

    def __init__(self, images: int, width: int):
        super().__init__()
        bound = (3 / width) ** 0.5
        for side in ("student", "teacher"):  # an initializer each: one gives the same values every time it is asked
            start = keras.initializers.RandomUniform(-bound, bound)
            rows = self.add_weight(shape=(images, width), initializer=start, trainable=False, name=side)
            setattr(self, side, rows)
        self.seed = random.getrandbits(31)  # of the negatives; `keras.utils.set_random_seed` governs it
        self.labels = self.add_weight(shape=(images,), initializer=_unseen, dtype="int32", trainable=False)
        self.scale = [self.add_weight(shape=(), initializer="zeros", trainable=False) for _ in range(2)]
        self.steps = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="steps")
        self.images = images
        self.built = True


def _unseen(shape, dtype=None):
    return -tf.ones(shape, dtype)


@dataclass(frozen=True, kw_only=True)
class CRD(FeatureMethod):
    """(1 - alpha) · CE + alpha · T² · KL + beta · L_CRD, with alpha = 0 in the public code's main setting.

    Student and teacher features go through a trained projection of their own to unit vectors [B, width]. Each is
    contrasted with a memory of the other's: the same image against `negatives` images of other classes. Ours: they
    are drawn anew for each batch and shared by its samples, where the public code draws a set for each; images that
    were not seen yet are no negatives; and the memory is renewed with the projections as they are after the step.
    `memory=False` takes the negatives from the batch instead: cheaper, and without anything to remember.
    """

    beta: float = 0.8
    alpha: float = 0.0
    temperature: float = 4.0
    width: int = 128
    negatives: int = 4096
    contrast_temperature: float = 0.07
    momentum: float = 0.5
    memory: bool = True

    name: ClassVar[str] = "crd"
    paper: ClassVar[str] = "Tian, Krishnan, Isola. Contrastive Representation Distillation. ICLR 2020, arXiv:1910.10699"
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "distillation", "contrast")

    def __post_init__(self):
        KD(self.alpha, self.temperature)  # which refuses what it cannot use
        losses.check_temperature(self.contrast_temperature)

    def make_heads(self, student, sizes):
        shapes = {
            "student": student.get_layer(self.student_layer).output.shape[1:],
            "teacher": sizes.teacher["feature"],
        }
        heads = {}
        for name, shape in shapes.items():
            unit = [keras.layers.Dense(self.width), keras.layers.UnitNormalization()]
            heads[name] = keras.Sequential([keras.Input(shape), *unit])
        return heads | ({"memory": Memory(sizes.images, self.width)} if self.memory else {})

    def _vectors(self, batch, outputs, heads):
        return heads["student"](outputs["feature"]), heads["teacher"](tf.stop_gradient(batch["teacher"]["feature"]))

    def _against_memory(self, batch, ours, theirs, memory):
        seed = tf.stack([memory.steps.value, memory.seed])
        drawn = tf.random.stateless_uniform([self.negatives], seed, 0, memory.images, tf.int32)
        labels = tf.gather(memory.labels, drawn)
        counted = (labels[None, :] >= 0) & (labels[None, :] != batch["label"][:, None])
        found = []
        for side, (anchor, bank) in enumerate(((ours, memory.teacher), (theirs, memory.student))):
            same = tf.exp(tf.reduce_sum(anchor * tf.gather(bank, batch["index"]), -1) / self.contrast_temperature)
            other = tf.exp(tf.matmul(anchor, tf.gather(bank, drawn), transpose_b=True) / self.contrast_temperature)
            # The constant that makes scores probabilities is set by the first batch and stays.
            first = tf.stop_gradient(tf.reduce_mean(tf.concat([same[:, None], other], 1))) * memory.images
            scale = tf.where(memory.scale[side] > 0, memory.scale[side], first)
            memory.scale[side].assign(scale)
            found.append(noise_contrastive_loss(same / scale, other / scale, counted, memory.images))
        return found

    def loss(self, batch, outputs, heads):
        total, terms = self.held_out_loss(batch, outputs, heads)
        ours, theirs = self._vectors(batch, outputs, heads)
        if self.memory:
            from_student, from_teacher = self._against_memory(batch, ours, theirs, heads["memory"])
        else:
            from_student = in_batch_contrast(ours, theirs, batch["label"], self.contrast_temperature)
            from_teacher = in_batch_contrast(theirs, ours, batch["label"], self.contrast_temperature)
        contrast = from_student + from_teacher
        return total + self.beta * contrast, terms | {"contrast": contrast}

    def held_out_loss(self, batch, outputs, heads):
        """Without the contrast: the memory has no rows for held-out images."""
        return KD(self.alpha, self.temperature).loss(batch, outputs, heads)

    def after_step(self, batch, outputs, student, heads):
        if not self.memory:
            return
        memory, index = heads["memory"], batch["index"]
        vectors_of = self._vectors(batch, outputs, heads)
        for bank, vectors in zip((memory.student, memory.teacher), vectors_of, strict=True):
            rows = renewed(tf.gather(bank, index), vectors, self.momentum)
            bank.assign(tf.tensor_scatter_nd_update(bank, index[:, None], rows))
        memory.labels.assign(tf.tensor_scatter_nd_update(memory.labels, index[:, None], batch["label"]))
        memory.steps.assign_add(1)
