"""Training without a teacher: the control of every comparison, and how teachers themselves are trained."""

from dataclasses import dataclass
from typing import ClassVar

from utils import losses
from utils.methods.base import Method


@dataclass(frozen=True)
class Scratch(Method):
    """Plain cross-entropy with the labels. It runs through the same Distiller, so that only the loss differs."""

    name: ClassVar[str] = "scratch"
    paper: ClassVar[str] = "none: cross-entropy"
    needs_teacher: ClassVar[bool] = False
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy",)

    def loss(self, batch, outputs, heads):
        total = losses.compute_plain_cross_entropy_loss(batch["label"], outputs["logits"])
        return total, {"cross_entropy": total}
