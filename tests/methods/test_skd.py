import numpy as np
import pytest
import tensorflow as tf

from tests.methods.fixtures import both_precisions
from utils.methods import DIST, DKD, KD, LSKD, RKD, SKD, Ensemble, Extractive, FitNets, OnSubclasses, SubclassLabels
from utils.methods.skd import answering_for_classes, refuse_in_vain
from utils.methods.subclass import ClassLogits
from utils.models import mnist_student, mnist_teacher
from utils.phases import Schedule
from utils.training import train_and_evaluate
from utils.transfer import transfer_learn

AGREE4 = (0, 0, 1, 1)
U_T = [[2, 1, 0, -1], [-1, 0, 0.5, 1.5]]
U_S = [[1, 1, 0, 0], [0, 0, 0, 1]]


def class_logits(u, class_of=AGREE4):
    return ClassLogits(class_of, dtype=u.dtype)(u)


def example(to):
    batch = {"label": np.array([0, 1], np.int32), "subclass": np.array([0, 3], np.int32)}
    batch["teacher"] = {"subclass": to(U_T), "logits": class_logits(to(U_T))}
    return batch, {"subclass": to(U_S), "logits": class_logits(to(U_S))}


@both_precisions
def test_worked_numbers(to, close):
    u = class_logits(to([[2, 1, 0, -1]]))
    close(u, [[2.3132616875, 0.3132616875]])
    close(tf.nn.softmax(u)[0, 1], 0.1192029220)
    batch, outputs = example(to)
    total, terms = SKD(0.5, 4.0, class_of=AGREE4).loss(batch, outputs, {})
    close([terms["distillation"], terms["cross_entropy"]], [0.2044627780, 0.8750386244], 10)
    close(total, 0.5397507012, 10)
    total, terms = SKD(0.5, 4.0, class_of=AGREE4, hard="class").loss(batch, outputs, {})
    close(terms["cross_entropy"], 0.3718341903)
    close(total, 0.2881484842, 10)


@both_precisions
def test_the_largest_subclass_is_not_always_in_the_likeliest_class(to, close):
    u = to([[1, -3, 0.9, 0.9]])
    assert int(tf.argmax(u, -1)[0]) == 0
    close(tf.nn.softmax(class_logits(u))[0, 1], 0.6399154637)


def test_any_logit_method_can_work_on_the_subclasses():
    batch, outputs = example(lambda values: tf.constant(values, tf.float32))
    method = OnSubclasses(DKD(warmup=0), AGREE4)
    seen = {"label": batch["subclass"], "epoch": 0, "teacher": {"logits": batch["teacher"]["subclass"]}}
    expected = DKD(warmup=0).loss(seen, {"logits": outputs["subclass"]}, {})
    assert method.loss(batch | {"epoch": 0}, outputs, {})[0] == expected[0] and method.terms == DKD.terms
    assert method.name == "dkd_on_subclasses"
    assert method.make_student(mnist_student, 2).output_shape == (None, 2)
    as_kd = OnSubclasses(KD(0.5, 4.0), AGREE4).loss(batch, outputs, {})[0]
    assert float(as_kd) == pytest.approx(float(SKD(0.5, 4.0, class_of=AGREE4).loss(batch, outputs, {})[0]))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (OnSubclasses(DKD(), (0, 1)), r"'dkd' collapses with 2 classes"),
        (OnSubclasses(RKD(), AGREE4), r"'rkd' for its loss on logits alone.*student_taps.*teacher_taps"),
        (OnSubclasses(FitNets(), AGREE4), r"would drop what else it has:.*'stages'"),
        (OnSubclasses(SKD(class_of=AGREE4), AGREE4), r"'skd' for its loss.*'prepare_teacher'"),
        (OnSubclasses(Ensemble(), AGREE4), r"would drop what else it has"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_subclasses_do_not_help_is_refused_before_anything_is_trained(method, message):
    with pytest.raises(ValueError, match=message):
        refuse_in_vain(method)
    with pytest.raises(ValueError, match=message):
        train_and_evaluate(mnist_student, method, data=None)
    with pytest.raises(ValueError, match=message):
        transfer_learn(mnist_student, method, None, starts={}, schedule=Schedule(1, 1, 1, 1))


def test_methods_on_logits_may_work_on_subclasses():
    for inner in (KD(), DKD(), DIST(), LSKD(), Extractive()):
        refuse_in_vain(OnSubclasses(inner, AGREE4))
    refuse_in_vain(DKD())


def test_the_teacher_learns_the_subclasses():
    batch, outputs = example(lambda values: tf.constant(values, tf.float32))
    assert float(SubclassLabels(AGREE4).loss(batch, outputs, {})[0]) == pytest.approx(0.8750386244)
    asked = []

    class Teacher:
        build_model = mnist_teacher

    for method in (SKD(class_of=AGREE4), OnSubclasses(KD(), AGREE4)):
        method.prepare_teacher(lambda build, own: asked.append((build, own)), Teacher, None)
    assert asked == [(mnist_teacher, SubclassLabels(AGREE4))] * 2


def test_a_model_that_answers_for_subclasses_already_is_taken_as_it_is():
    digits = mnist_teacher()
    teacher = answering_for_classes(digits, (0,) * 5 + (1,) * 5)
    for method in (SKD(class_of=(0,) * 5 + (1,) * 5), OnSubclasses(KD(), (0,) * 5 + (1,) * 5)):
        assert method.prepare_teacher(None, teacher, None) is teacher
    image = tf.random.stateless_uniform([3, 28, 28, 1], [0, 0])
    halves = tf.nn.softmax(digits(image)).numpy().reshape(3, 2, 5).sum(-1)
    np.testing.assert_allclose(tf.nn.softmax(teacher(image)), halves, rtol=1e-5)
    with pytest.raises(ValueError, match="must be a run from train_and_evaluate"):
        SKD(class_of=AGREE4).prepare_teacher(None, digits, None)


def test_data_without_subclasses_and_other_hard_terms_are_refused_in_words():
    batch, outputs = example(lambda values: tf.constant(values, tf.float32))
    batch.pop("subclass")
    with pytest.raises(ValueError, match="no known subclasses"):
        SKD(class_of=AGREE4).loss(batch, outputs, {})
    with pytest.raises(ValueError, match="class_of is empty"):
        SKD()
    with pytest.raises(ValueError, match="hard is 'both'"):
        SKD(class_of=AGREE4, hard="both")
