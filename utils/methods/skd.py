"""Subclass knowledge distillation with known subclass labels (Sajedi, Lawryshyn, Plataniotis 2022)."""

from dataclasses import dataclass
from typing import ClassVar

import keras

from utils import losses
from utils.methods.base import Method, architecture
from utils.methods.kd import KD
from utils.methods.subclass import ClassLogits, subclass_distillation, with_subclasses

PAPER = (
    "Sajedi, Lawryshyn, Plataniotis. Subclass Knowledge Distillation with Known Subclass Labels. 2022, arXiv:2207.08063"
)


def subclass_labels(batch: dict):
    """The finer labels [B] of a batch, or a ValueError that says where they come from."""
    if "subclass" not in batch:
        raise ValueError("The batch has no 'subclass': these images have no known subclasses. Set Split.subclasses.")
    return batch["subclass"]


@dataclass(frozen=True)
class SubclassLabels(Method):
    """Plain cross-entropy with the subclasses: how the teacher of SKD is trained. class_of[j] is subclass j's class."""

    class_of: tuple[int, ...]

    name: ClassVar[str] = "subclass_labels"
    paper: ClassVar[str] = PAPER
    needs_teacher: ClassVar[bool] = False
    student_taps: ClassVar[dict[str, str]] = {"subclass": "logits"}
    terms: ClassVar[tuple[str, ...]] = ("cross_entropy",)

    def make_student(self, build_model, classes):
        return with_subclasses(build_model, self.class_of)

    def loss(self, batch, outputs, heads):
        total = losses.compute_plain_cross_entropy_loss(subclass_labels(batch), outputs["subclass"])
        return total, {"cross_entropy": total}


def teacher_of_subclasses(train, teacher, class_of, method: str):
    """A teacher trained on the subclasses; a model that already answers for them (`answering_for_classes`) stays."""
    if isinstance(teacher, keras.Model) and isinstance(teacher.layers[-1], ClassLogits):
        return teacher
    return train(architecture(teacher, method), SubclassLabels(class_of))


def answering_for_classes(model: keras.Model, class_of) -> keras.Model:
    """A trained classifier of the subclasses, its weights shared, that ends in the logits of the classes."""
    return keras.Model(model.inputs, ClassLogits(class_of, name="class_logits")(model.outputs[0]))


@dataclass(frozen=True)
class OnSubclasses(Method):
    """Any method on logits, at work on a head of known subclasses: the way on for those that collapse at 2 classes.

    `inner` sees the subclasses' labels and logits in place of the classes'; the teacher is trained on subclasses too.
    """

    inner: Method
    class_of: tuple[int, ...]

    paper: ClassVar[str] = PAPER
    teacher_taps: ClassVar[dict[str, str]] = {"subclass": "logits"}
    student_taps: ClassVar[dict[str, str]] = {"subclass": "logits"}

    @property
    def name(self):
        return f"{self.inner.name}_on_subclasses"

    @property
    def terms(self):
        return self.inner.terms

    def prepare_teacher(self, train, teacher, build_student):
        return teacher_of_subclasses(train, teacher, self.class_of, self.name)

    def make_student(self, build_model, classes):
        return with_subclasses(build_model, self.class_of)

    def loss(self, batch, outputs, heads):
        theirs = batch["teacher"] | {"logits": batch["teacher"]["subclass"]}
        seen = batch | {"label": subclass_labels(batch), "teacher": theirs}
        return self.inner.loss(seen, outputs | {"logits": outputs["subclass"]}, heads)


PASSED_ON = {"loss", "make_student"}  # of what a method may have of its own, what OnSubclasses asks the inner one for


def refuse_in_vain(method: Method) -> None:
    """A ValueError where `OnSubclasses` would train in vain: two logits again, or a method that is more than a loss."""
    if not isinstance(method, OnSubclasses):
        return
    inner = type(method.inner)
    dropped = {name for name in vars(Method) if callable(getattr(Method, name)) and not name.startswith("_")}
    dropped = {name for name in dropped - PASSED_ON if getattr(inner, name) is not getattr(Method, name)}
    dropped |= {name for name in ("teacher_taps", "student_taps") if getattr(method.inner, name)}
    if dropped or inner.several_teachers or method.inner.teacher_sees != "same":
        raise ValueError(
            f"OnSubclasses asks {method.inner.name!r} for its loss on logits alone, and would drop what else it has: "
            f"{sorted(dropped) or 'its teachers'}. Give it a method on logits, such as dkd, dist, lskd or extractive."
        )
    method.inner.make_student(lambda outputs: None, len(method.class_of))  # which refuses two logits where it must


@dataclass(frozen=True)
class SKD(KD):
    """(1 - alpha) · CE + alpha · T² · KL of the subclasses, from a teacher trained on the subclasses.

    Whether the paper's hard term is on subclasses or classes could not be verified: `hard` can be "subclass" or
    "class". A class's probability is the sum of its subclasses'.
    """

    class_of: tuple[int, ...] = ()
    hard: str = "subclass"

    name: ClassVar[str] = "skd"
    paper: ClassVar[str] = PAPER
    teacher_taps: ClassVar[dict[str, str]] = {"subclass": "logits"}
    student_taps: ClassVar[dict[str, str]] = {"subclass": "logits"}

    def __post_init__(self):
        super().__post_init__()
        if not self.class_of:
            raise ValueError("class_of is empty; it must name the class of each subclass, as (0, 0, 1, 1) does.")
        if self.hard not in ("subclass", "class"):
            raise ValueError(f"hard is {self.hard!r}; it can be 'subclass' or 'class'.")

    def prepare_teacher(self, train, teacher, build_student):
        return teacher_of_subclasses(train, teacher, self.class_of, self.name)

    def make_student(self, build_model, classes):
        return with_subclasses(build_model, self.class_of)

    def loss(self, batch, outputs, heads):
        on_classes = batch["label"], outputs["logits"]
        hard = on_classes if self.hard == "class" else (subclass_labels(batch), outputs["subclass"])
        cross_entropy = losses.compute_plain_cross_entropy_loss(*hard)
        return subclass_distillation(cross_entropy, batch, outputs, self.alpha, self.temperature)
