import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.methods.fixtures import both_precisions
from utils import losses
from utils.methods import Subclass, SubclassTeacher
from utils.methods.subclass import ClassLogits, auxiliary_loss, with_subclasses
from utils.models import mnist_student, mnist_teacher

U = [[3, 1, 0, -1], [0, 2, -1, 1], [-1, 0, 2, 0.5]]
U_S = [[1, 0, 0.5, -1], [0, 1, 0, 0.5], [0, 0, 1, 0]]
LABELS = np.array([0, 0, 1], np.int32)
CLASSES = ClassLogits((0, 0, 1, 1))


def class_logits(u):
    return ClassLogits((0, 0, 1, 1), dtype=u.dtype)(u)


@both_precisions
def test_worked_numbers_of_the_teacher(to, close):
    z = class_logits(to(U))
    close(z, [[3.1269280110, 0.3132616875], [2.1269280110, 1.1269280110], [0.3132616875, 2.2014132780]])
    close(tf.nn.softmax(z)[:, 0], [0.9434098742, 0.7310585786, 0.1314553676])
    close(losses.compute_plain_cross_entropy_loss(LABELS, z), 0.1708174778)
    close(auxiliary_loss(to(U)), -0.6937745731, 10)
    close(auxiliary_loss(to(U), 0.1), -1.0985977712, 50)
    assert abs(float(auxiliary_loss(to([[1, 2, 4]] * 3)))) < (1e-8 if to([1]).dtype == tf.float64 else 2e-6)
    orthogonal = to([[1, -1, 0, 0], [0, 0, 1, -1]])
    allowed = 2e-9 if orthogonal.dtype == tf.float64 else 1e-6  # for the 1e-9 beside the variance
    np.testing.assert_allclose(auxiliary_loss(orthogonal), -0.3798854930, rtol=0, atol=allowed)
    np.testing.assert_allclose(auxiliary_loss(to([[1, -1], [-1, 1]])), -0.5662191695, rtol=0, atol=allowed)
    assert abs(float(auxiliary_loss(to(U))) + 0.6174508549) > 0.05  # what a cosine without centring would give


@both_precisions
def test_the_terms_of_the_teacher_are_weighed_as_the_method_says(to, close):
    outputs = {"logits": class_logits(to(U)), "subclass": to(U)}
    for beta, temperature, spread in ((1.0, 1.0, -0.6937745731), (0.3, 0.1, -1.0985977712)):
        total, terms = SubclassTeacher(2, beta, temperature).loss({"label": LABELS}, outputs, {})
        close(terms["cross_entropy"], 0.1708174778)
        close(terms["auxiliary"], spread, 50)
        close(total, 0.1708174778 + beta * spread, 50)


@both_precisions
def test_worked_numbers_of_the_student(to, close):
    batch = {"label": LABELS, "teacher": {"subclass": to(U)}}
    outputs = {"logits": class_logits(to(U_S)), "subclass": to(U_S)}
    total, terms = Subclass(2, 0.5, 4.0).loss(batch, outputs, {})
    close(terms["distillation"], 0.3382430640, 10)
    close(terms["cross_entropy"], 0.4671931583)
    p = tf.nn.softmax(to(U) / 4)
    entropy = -16 * tf.reduce_mean(tf.reduce_sum(p * tf.math.log(p), -1))
    close(terms["distillation"] + entropy, 21.7273260068, 10)  # the soft cross-entropy of the authors' code
    close(total + entropy / 2, 11.0972595826, 10)
    fine, coarse = (
        losses.softened_kl(to(U), to(U_S), 1.0),
        losses.softened_kl(class_logits(to(U)), outputs["logits"], 1.0),
    )
    close([tf.reduce_mean(fine), tf.reduce_mean(coarse)], [0.2038618467, 0.1400383343])


def test_heads_have_a_logit_for_each_subclass_and_answer_for_classes():
    keras.utils.set_random_seed(0)
    plain = mnist_student()
    keras.utils.set_random_seed(0)
    wide = Subclass(subclasses=5).make_student(mnist_student, 10)
    assert wide.get_layer("logits").count_params() == 39_250 and wide.output_shape == (None, 10)
    assert SubclassTeacher(5).make_student(mnist_teacher, 10).get_layer("logits").count_params() == 6_450
    np.testing.assert_array_equal(plain.get_layer("fc2").kernel, wide.get_layer("fc2").kernel)  # equal starts
    probabilities = tf.nn.softmax(CLASSES(tf.constant(U, tf.float32)))
    np.testing.assert_allclose(
        probabilities[:, 0], tf.nn.softmax(tf.constant(U, tf.float32))[:, :2].numpy().sum(1), 1e-5
    )


def test_an_uneven_map_of_subclasses_is_saved_with_the_model(tmp_path):
    model = with_subclasses(mnist_student, (0, 1, 1, 0, 1))
    model.save(tmp_path / "wide.keras")
    image = tf.random.stateless_uniform([2, 28, 28, 1], [0, 0])
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "wide.keras")(image), model(image), atol=1e-6)


@pytest.mark.parametrize("class_of", [(0, 2), (1, 1), ()])
def test_a_map_that_leaves_out_a_class_is_refused(class_of):
    if not class_of:
        with pytest.raises(ValueError, match="names 0 subclasses, but there are 2"):
            ClassLogits(class_of)(tf.zeros([1, 2]))
        return
    with pytest.raises(ValueError, match="every class"):
        ClassLogits(class_of)


def test_the_teacher_is_trained_for_it():
    asked = []

    class Teacher:
        build_model = mnist_teacher

    method = Subclass(3, beta=0.5, auxiliary_temperature=0.7)
    method.prepare_teacher(lambda build, own: asked.append((build, own)), Teacher, None)
    assert asked == [(mnist_teacher, SubclassTeacher(3, 0.5, 0.7))]
