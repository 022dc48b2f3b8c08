"""Knowledge distillation with softened targets (Hinton, Vinyals, Dean 2015)."""

from dataclasses import dataclass
from typing import ClassVar

from utils import losses
from utils.methods.base import Method


@dataclass(frozen=True)
class KD(Method):
    """(1 - alpha) · CE + alpha · T² · KL(teacher at T ‖ student at T); see `losses.compute_student_loss`."""

    alpha: float = 0.5
    temperature: float = 4.0

    name: ClassVar[str] = "kd"
    paper: ClassVar[str] = "Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. arXiv:1503.02531, 2015"
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "distillation")

    def __post_init__(self):
        losses.check_alpha(self.alpha)
        losses.check_temperature(self.temperature)

    def loss(self, batch, outputs, heads):
        hard = losses.compute_plain_cross_entropy_loss(batch["label"], outputs["logits"])
        soft = losses.distillation_loss(batch["teacher"]["logits"], outputs["logits"], self.temperature)
        total = (1 - self.alpha) * hard + self.alpha * soft
        return total, {"cross_entropy": hard, "distillation": soft}
