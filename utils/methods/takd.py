"""Teacher assistants (Mirzadeh et al. 2020): networks of intermediate size that teach, and are taught, in a chain."""

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from utils import models
from utils.methods.kd import KD


def chains(assistants: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every way from teacher to student over assistants in order of size: all 2^n subsets, the direct way first."""
    return [chain for length in range(len(assistants) + 1) for chain in combinations(assistants, length)]


HOP = KD(alpha=0.5, temperature=4.0)


@dataclass(frozen=True)
class TAKD(KD):
    """KD from the last of a chain of assistants; each is distilled from the one before, the first from the teacher.

    assistants   names of functions in `utils.models`, the largest network first
    hop          how each assistant is distilled; alpha and temperature are those of the student's own hop
    """

    assistants: tuple[str, ...] = ("mnist_assistant",)
    hop: KD = HOP

    name: ClassVar[str] = "takd"
    paper: ClassVar[str] = (
        "Mirzadeh, Farajtabar, Li, Levine, Matsukawa, Ghasemzadeh. Improved Knowledge Distillation via Teacher "
        "Assistant. AAAI 2020, arXiv:1902.03393"
    )

    def prepare_teacher(self, train, teacher, build_student):
        for name in self.assistants:
            teacher = train(getattr(models, name), self.hop, teacher=teacher)
        return teacher
