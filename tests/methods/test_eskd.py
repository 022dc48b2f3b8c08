import pytest

from tests.methods.fixtures import LABELS, Z_S, Z_T, T, both_precisions
from utils.methods import ESKD, KD, Scratch


def loss(method, to, epoch=0):
    batch = {"label": LABELS, "teacher": {"logits": to(Z_T)}, "epoch": epoch}
    return method.loss(batch, {"logits": to(Z_S)}, {})[0]


@both_precisions
def test_worked_numbers_on_both_sides_of_the_stop(to, close):
    method = ESKD(0.5, T, stop_after=9)
    close([loss(method, to, epoch) for epoch in (0, 8, 9, 11)], [0.6417465935] * 2 + [0.9835306993] * 2)
    assert abs(float(loss(method, to, 9)) - 0.4917653497) > 0.1  # which (1 - alpha) times the cross-entropy would give
    close(loss(ESKD(0.5, T, stop_after=12), to, 11), loss(KD(0.5, T), to))
    close(loss(ESKD(0.5, T, stop_after=0), to, 0), loss(Scratch(), to))


def test_the_teacher_is_trained_shorter_or_taken_as_it_is():
    class Teacher:
        build_model = "its architecture"

    asked = []

    def train(build_model, method, **options):
        asked.append((build_model, method, options))
        return "shorter"

    teacher = Teacher()
    assert ESKD().prepare_teacher(train, teacher, None) is teacher and not asked
    assert ESKD(teacher_epochs=6).prepare_teacher(train, teacher, None) == "shorter"
    assert asked == [("its architecture", Scratch(), {"epochs": 6})]
    with pytest.raises(ValueError, match="alpha"):
        ESKD(alpha=2.0)
