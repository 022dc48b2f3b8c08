"""What a distillation method is: what it needs, the heads it trains beside the student, its stages and its loss."""

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Sizes:
    """What the heads of a method may depend on, beside the student.

    images    number of training images; batch["index"] runs below it
    teacher   {"logits": (C,), tap: (...)}: shape of each teacher signal for one image
    """

    images: int | None = None
    teacher: dict[str, tuple] = field(default_factory=dict)


class Method:
    """The parts of a method that training asks for. Subclasses are frozen dataclasses: a traced graph keeps
    the values it saw, so a hyperparameter that could be changed afterwards would be changed in vain.

    needs_teacher   whether batches must carry, or a live teacher must give, teacher signals
    several_teachers  whether it learns from several at once
    teacher_sees    "same": the teacher answers for the very picture the student sees; "clean": for the image without
                    augmentation; "other": for another view of the image, drawn independently
    teacher_taps    {name: layer}: teacher layers whose outputs the loss reads, beside the logits
    student_taps    {name: layer}: the same of the student
    terms           names of the loss terms, each tracked over the epoch
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    needs_teacher: ClassVar[bool] = True
    several_teachers: ClassVar[bool] = False
    terms: ClassVar[tuple[str, ...]] = ()
    teacher_sees = "same"
    teacher_taps: ClassVar[dict[str, str]] = {}
    student_taps: ClassVar[dict[str, str]] = {}

    def prepare_teacher(self, train, teacher, build_student):
        """The teacher to distil from: `teacher` itself, or one that is made from it.

        `train(build_model, method, teacher=None, **options)` makes a recorded run on the same data: in Task 1 as the
        given teacher was trained (seed, epochs, batch size, rate, schedule), but without views; in Task 2 as this run
        is, with its views. `teacher` is a finished run or a model.
        """
        return teacher

    def make_student(self, build_model, classes: int):
        """The network that is trained and deployed. It ends in the logits [B, classes] that predictions are read
        from; `build_model(outputs=...)` makes the plain one."""
        return build_model(outputs=classes)

    def make_heads(self, student, sizes: Sizes) -> dict:
        """What is trained or kept beside the student and thrown away after: {name: built keras model or layer}."""
        return {}

    def trained_variables(self, student, heads: dict) -> list:
        """The variables that one optimizer step changes."""
        return student.trainable_variables + [v for head in heads.values() for v in head.trainable_variables]

    def stages(self, epochs: int) -> list:
        """[(method, epochs)], trained one after the other on the same student, each with a fresh optimizer."""
        return [(self, epochs)]

    def loss(self, batch: dict, outputs: dict, heads: dict):
        """Total loss (scalar) and {term: scalar}, for one batch.

        Args:
            batch: "label" int [B], "index" int [B], "epoch" int [] counted from 0; "subclass" int [B] where the data
                know it; where the method needs it, "teacher": {"logits": [B, C], tap: [B, ...]} and, from several
                teachers, "members": [B, M, C].
            outputs: the student's "logits" [B, C] and taps.
            heads: what `make_heads` made.
        """
        raise NotImplementedError

    def held_out_loss(self, batch: dict, outputs: dict, heads: dict):
        """The loss on images that are not trained on, for the curves: other indices, and the last epoch's number."""
        return self.loss(batch, outputs, heads)

    def after_step(self, batch: dict, outputs: dict, student, heads: dict) -> None:
        """Called after each optimizer step, outside the tape: to renew what the method remembers."""
        return


@dataclass(frozen=True, kw_only=True)
class FeatureMethod(Method):
    """A method whose loss reads "feature", one layer of each network; by default the layer before the logits.

    teacher_layer   in Task 1 "fc", 128 activations [B, 128]
    student_layer   in Task 1 "fc2", 784 activations [B, 784]
    """

    teacher_layer: str = "fc"
    student_layer: str = "fc2"

    @property
    def teacher_taps(self):
        return {"feature": self.teacher_layer}

    @property
    def student_taps(self):
        return {"feature": self.student_layer}


def architecture(teacher, method: str):
    """The function that builds the teacher's network, of a finished run; a trained model does not know it."""
    if not hasattr(teacher, "build_model"):
        raise ValueError(
            f"{method!r} trains a teacher of its own, like the one it is given: that must be a run from "
            f"train_and_evaluate, which knows how it was made, not a {type(teacher).__name__}."
        )
    return teacher.build_model


def refuse_two_classes(method: str, classes: int, what_is_left: str) -> None:
    """A ValueError where a method would train in vain."""
    if classes == 2:
        raise ValueError(
            f"{method!r} collapses with 2 classes: {what_is_left} Give the networks more logits than classes: "
            "OnSubclasses distils a head of subclasses (annotators' votes, or subclasses the teacher invents)."
        )
