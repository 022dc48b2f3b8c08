"""FitNets (Romero et al. 2015): the student's first layers learn to reproduce a hidden layer of the teacher."""

from dataclasses import dataclass
from typing import ClassVar

import keras
import tensorflow as tf

from utils.methods.base import FeatureMethod
from utils.methods.kd import KD


def hint_loss(hint, regressed):
    """Half the squared distance of the hint [B, ...] from the student's regression on it, mean over the batch."""
    squares = tf.reshape((tf.stop_gradient(hint) - regressed) ** 2, [tf.shape(hint)[0], -1])
    return tf.reduce_mean(tf.reduce_sum(squares, axis=-1)) / 2


@dataclass(frozen=True, kw_only=True)
class Hint(FeatureMethod):
    """Stage 1: the layers up to `student_layer` and a regressor on top of it are trained on `hint_loss`, the rest
    rests. The regressor is dense, or a 1x1 convolution between maps of one size. `activation` should be that of the
    hint: a regressor that ends in ReLU never reaches a hint with negative values."""

    activation: str = "relu"

    name: ClassVar[str] = "hint"
    terms: ClassVar[tuple[str, ...]] = ("hint",)

    def make_heads(self, student, sizes):
        *space, width = sizes.teacher["feature"]
        guided = student.get_layer(self.student_layer).output
        dense = keras.layers.Dense if not space else keras.layers.Conv2D
        options = {"kernel_size": 1} if space else {}
        regressor = keras.Sequential([dense(width, activation=self.activation, **options)], name="regressor")
        regressor.build(guided.shape)
        return {"regressor": regressor}

    def trained_variables(self, student, heads):
        lower = keras.Model(student.inputs, student.get_layer(self.student_layer).output)
        return lower.trainable_variables + heads["regressor"].trainable_variables

    def loss(self, batch, outputs, heads):
        total = hint_loss(batch["teacher"]["feature"], heads["regressor"](outputs["feature"]))
        return total, {"hint": total}


@dataclass(frozen=True)
class FitNets(KD):
    """A stage of hints, then KD of the whole student. The regressor is thrown away between the two.

    hint_epochs     epochs of the first stage, on top of those of the second
    teacher_layer   the hint; student_layer: the guided layer; activation: the regressor's
    """

    hint_epochs: int = 3
    teacher_layer: str = "fc"
    student_layer: str = "fc1"
    activation: str = "relu"

    name: ClassVar[str] = "fitnets"
    paper: ClassVar[str] = (
        "Romero, Ballas, Kahou, Chassang, Gatta, Bengio. FitNets: Hints for Thin Deep Nets. ICLR 2015, arXiv:1412.6550"
    )

    @property
    def teacher_taps(self):
        return {"feature": self.teacher_layer}

    def stages(self, epochs):
        hint = Hint(teacher_layer=self.teacher_layer, student_layer=self.student_layer, activation=self.activation)
        return ([(hint, self.hint_epochs)] if self.hint_epochs else []) + [(self, epochs)]
