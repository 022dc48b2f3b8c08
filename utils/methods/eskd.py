"""Early-stopped distillation (Cho and Hariharan 2019): a teacher that was stopped early, and a distillation term
that is dropped before the student's training ends."""

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from utils.methods.base import architecture
from utils.methods.kd import KD
from utils.methods.scratch import Scratch


@dataclass(frozen=True)
class ESKD(KD):
    """KD until `stop_after` epochs, then plain cross-entropy at its full weight.

    teacher_epochs   how long the teacher is trained; None takes the teacher as it is
    stop_after       epochs with the distillation term; ours: 9 of 12
    """

    teacher_epochs: int | None = None
    stop_after: int = 9

    name: ClassVar[str] = "eskd"
    paper: ClassVar[str] = (
        "Cho, Hariharan. On the Efficacy of Knowledge Distillation. ICCV 2019, 4794-4802, arXiv:1910.01348"
    )

    def prepare_teacher(self, train, teacher, build_student):
        if self.teacher_epochs is None:
            return teacher
        return train(architecture(teacher, self.name), Scratch(), epochs=self.teacher_epochs)

    def loss(self, batch, outputs, heads):
        distilled, terms = super().loss(batch, outputs, heads)
        return tf.where(batch["epoch"] < self.stop_after, distilled, terms["cross_entropy"]), terms
