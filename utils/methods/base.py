"""What a distillation method is: what it needs, the heads it trains beside the student, and its loss."""

from typing import ClassVar


class Method:
    """The parts of a method that the Distiller asks for. Subclasses are frozen dataclasses: a traced graph keeps
    the values it saw, so a hyperparameter that could be changed afterwards would be changed in vain.

    needs_teacher   whether batches must carry, or a live teacher must give, teacher signals
    teacher_taps    names of teacher layers whose outputs the loss reads, beside the logits
    student_taps    names of student layers whose outputs the loss reads, beside the logits
    terms           names of the loss terms, each tracked over the epoch
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    needs_teacher: ClassVar[bool] = True
    teacher_taps: ClassVar[tuple[str, ...]] = ()
    student_taps: ClassVar[tuple[str, ...]] = ()
    terms: ClassVar[tuple[str, ...]] = ()

    def make_heads(self, student) -> dict:
        """Networks trained beside the student and discarded after: {name: built keras model}."""
        return {}

    def class_logits(self, outputs: dict):
        """The logits [B, classes] that the student's predictions are read from."""
        return outputs["logits"]

    def loss(self, batch: dict, outputs: dict, heads: dict):
        """Total loss (scalar) and {term: scalar}, for one batch.

        Args:
            batch: "label" int [B], "index" int [B], "epoch" int [] counted from 0 and, where the method needs
                it, "teacher": {"logits": [B, C], tap: [B, ...]}.
            outputs: the student's "logits" [B, C] and taps.
            heads: what `make_heads` made.
        """
        raise NotImplementedError
