"""A patient and consistent teacher (Beyer et al. 2022): distillation as the fitting of a function, without labels."""

from dataclasses import dataclass
from typing import ClassVar

from utils import losses
from utils.methods.base import Method


@dataclass(frozen=True)
class Patient(Method):
    """T² · KL(teacher ‖ student) and nothing else, on views that both networks see.

    What makes the method is how it is trained: `view=View(..., mixup=True)`, `schedule="cosine"`, and many epochs.
    `teacher_sees` = "clean" or "other" breaks the consistency on purpose, to measure what it is worth.
    """

    temperature: float = 1.0
    teacher_sees: str = "same"

    name: ClassVar[str] = "patient"
    paper: ClassVar[str] = (
        "Beyer, Zhai, Royer, Markeeva, Anil, Kolesnikov. Knowledge Distillation: A Good Teacher is Patient and "
        "Consistent. CVPR 2022, arXiv:2106.05237"
    )
    terms: ClassVar[tuple[str, ...]] = ("distillation",)

    def loss(self, batch, outputs, heads):
        total = losses.distillation_loss(batch["teacher"]["logits"], outputs["logits"], self.temperature)
        return total, {"distillation": total}
