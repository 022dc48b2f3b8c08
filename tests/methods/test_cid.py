import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tests.methods.fixtures import both_precisions, finite, gradient
from utils import losses
from utils.distiller import with_taps
from utils.methods import CID, Sizes
from utils.methods.cid import Intervention, class_context, class_loss, sample_loss
from utils.models import mnist_student

F_S = [[1, 0], [1, 1], [0, 2], [1, 2]]
F_T = [[2, 0, 1], [1, 1, 1], [0, 3, 0], [1, 2, 0]]
LABELS = np.array([0, 0, 1, 1], np.int32)
W_R = [[1, 0, 0.5], [0, 1, 0]]


@both_precisions
def test_worked_numbers(to, close):
    regressed = tf.matmul(to(F_S), to(W_R))
    each = [sample_loss(to(F_T)[i : i + 1], regressed[i : i + 1]) for i in range(4)]
    close(each, [0.25, 0.0833333333, 0.1111111111, 0.05])
    close(sample_loss(to(F_T), regressed), 0.1236111111)
    close(class_loss(LABELS, to(F_T), to(F_S), 2), 0.0011387212)
    close(class_loss(LABELS[:2], to(F_T)[:2], to(F_S)[:2], 2), 0.0022774425)
    sums, seen = class_context(LABELS, to([0.9, 0.6, 0.8, 0.7]), to(F_S), 2)
    context = sums / seen[:, None]
    close(context, [[1, 0.4], [0.4666666667, 2]])
    # What the head reads for the first sample: its features, and the contexts weighed by what the student believes.
    layer = Intervention(4.0, dtype=context.dtype)
    logits = to([[4 * np.log(3), 0]])
    layer.build(((1, 2), (1, 2)))
    layer.context.assign(context)
    layer.ready.assign(1.0)
    layer.bias.assign(to([0, 0]))
    seen = []
    for row in range(4):
        kernel = np.zeros((4, 2))
        kernel[row, 0] = 1
        layer.kernel.assign(to(kernel))
        seen.append(float(layer([to(F_S)[:1], logits])[0, 0]))
    close(seen, [1, 0, 0.8666666667, 0.8])


@both_precisions
def test_the_class_term_is_blind_to_rotation_and_length(to, close):
    turned = 3 * tf.matmul(to(F_S), to([[0, 1], [-1, 0]]))
    close(class_loss(LABELS, to(F_T), turned, 2), class_loss(LABELS, to(F_T), to(F_S), 2))
    close(class_loss(LABELS, to(F_S), turned, 2), 0.0)
    close(sample_loss(to(F_T), to(F_T)), 0.0)


def test_absent_and_single_classes_and_features_of_0_leave_finite_losses_and_gradients():
    one_each = np.array([0, 1, 2, 4], np.int32)
    assert float(class_loss(one_each, tf.constant(F_T, tf.float32), tf.constant(F_S, tf.float32), 5)) == 0
    for labels in (one_each, LABELS):
        slopes = gradient(lambda f, y=labels: class_loss(y, tf.constant(F_T, tf.float32), f, 5), tf.zeros([4, 2]))
        assert finite(*slopes)
    assert np.isfinite(sample_loss(tf.zeros([2, 3]), tf.ones([2, 3])))


def test_until_there_is_a_context_the_logits_pass_and_then_the_head_answers():
    layer = Intervention(4.0)
    features, logits = tf.constant([[1.0, 2.0]]), tf.constant([[0.0, 4 * np.log(3.0), 0.0]], tf.float32)
    np.testing.assert_array_equal(layer([features, logits]), logits)
    layer.context.assign([[1.0, 0.0], [0.0, 5.0], [2.0, 0.0]])
    layer.kernel.assign([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    layer.ready.assign(1.0)
    # softmax(z / 4) = (1, 3, 1) / 5: the context is (0.6, 3)
    np.testing.assert_allclose(layer([features, logits]), [[1 + 3, 2, 0.6]], rtol=1e-5)


def test_the_head_stays_finite_where_the_student_is_sure():
    layer = Intervention(4.0)
    layer.build(((3, 2), (3, 10)))
    layer.context.assign(np.random.default_rng(0).normal(size=(10, 2)))
    layer.ready.assign(1.0)
    features, logits = tf.ones([3, 2]), tf.one_hot([0, 1, 2], 10) * 1e4
    assert finite(layer([features, logits]))
    assert finite(gradient(lambda f: tf.reduce_sum(layer([f, logits]) ** 2), features)[0])


def example(method):
    keras.utils.set_random_seed(0)
    student = method.make_student(mnist_student, 10)
    heads = method.make_heads(student, Sizes(teacher={"logits": (10,), "feature": (128,)}))
    rng = np.random.default_rng(0)
    outputs = {"feature": tf.constant(rng.random((4, 784)), tf.float32), "plain": tf.zeros([4, 10])}
    batch = {"label": tf.constant(LABELS), "teacher": {"logits": tf.zeros([4, 10])}}
    batch["teacher"]["feature"] = tf.constant(rng.random((4, 128)), tf.float32)
    return student, heads, batch, outputs | {"logits": tf.zeros([4, 10])}


def test_the_context_of_an_epoch_is_gathered_in_the_one_before():
    method = CID(context_after=2)
    student, heads, batch, outputs = example(method)
    head = student.get_layer("intervention")
    means = []
    for epoch in (0, 0, 1, 2):
        outputs["feature"] += 1.0
        means.append(tf.reduce_mean(outputs["feature"][:2], axis=0))
        method.after_step(batch | {"epoch": tf.constant(epoch, tf.int64)}, outputs, student, heads)
        if epoch == 0:
            assert not head.context.numpy().any() and float(head.ready) == 0
        elif epoch == 1:  # the mean of epoch 0's two steps; equal weights, since the teacher is undecided
            np.testing.assert_allclose(head.context[0], (means[0] + means[1]) / 2, rtol=1e-5)
            assert float(head.ready) == 0 and not head.context[5].numpy().any()
    np.testing.assert_allclose(head.context[0], means[2], rtol=1e-5)
    assert float(head.ready) == 1


def test_a_class_counts_the_samples_whose_label_the_teacher_believes():
    method = CID(context_after=1, temperature=2.5)
    student, heads, batch, outputs = example(method)
    rng = np.random.default_rng(1)
    z = rng.normal(0, 3, (4, 10)).astype(np.float32)
    z[np.arange(4), LABELS] = [6, -2, 0, 5]
    batch["teacher"]["logits"] = tf.constant(z)
    for epoch in (0, 1):
        method.after_step(batch | {"epoch": tf.constant(epoch, tf.int64)}, outputs, student, heads)
    p = np.exp(z / 2.5) / np.exp(z / 2.5).sum(axis=1, keepdims=True)
    weights, features = p[np.arange(4), LABELS], outputs["feature"].numpy()
    context = student.get_layer("intervention").context.numpy()
    for k, own in enumerate(([0, 1], [2, 3])):
        np.testing.assert_allclose(context[k], weights[own] @ features[own] / weights[own].sum(), rtol=1e-5)
        assert np.abs(context[k] - features[own].mean(axis=0)).max() > 0.05  # which equal weights would give
    assert not context[2:].any()


def test_the_students_belief_in_the_context_is_softened_by_the_methods_temperature():
    student = CID(temperature=2.5).make_student(mnist_student, 10)
    head = student.get_layer("intervention")
    head.ready.assign(1.0)
    head.context.assign(np.eye(10, 784))  # the context of an image is then what the student believes of it
    head.kernel.assign(np.concatenate([np.zeros((784, 10)), np.eye(784, 10)]))
    image = 3 * tf.random.stateless_uniform([4, 28, 28, 1], [1, 0])
    plain = keras.Model(student.inputs, student.get_layer("logits").output)(image)
    np.testing.assert_allclose(student(image), tf.nn.softmax(plain / 2.5), atol=1e-6)
    assert np.abs(tf.nn.softmax(plain / 2.5) - tf.nn.softmax(plain)).max() > 0.05


def test_the_first_phase_is_without_cross_entropy():
    method = CID(context_after=2)
    _, heads, batch, outputs = example(method)
    (early, terms), (late, _) = (
        method.loss(batch | {"epoch": tf.constant(epoch, tf.int64)}, outputs, heads) for epoch in (1, 2)
    )
    np.testing.assert_allclose(late - early, terms["cross_entropy"], rtol=1e-4)


@both_precisions
def test_the_terms_are_weighed_as_the_method_says(to, close):
    heads = {"regressor": lambda f: tf.matmul(f, to(W_R))}
    batch = {"label": LABELS, "teacher": {"feature": to(F_T), "logits": to([[2, 0], [1, 0], [0, 1], [0, 3]])}}
    batch["epoch"] = tf.constant(5, tf.int64)
    outputs = {"feature": to(F_S), "plain": to([[1, 0], [0, 0], [0, 1], [1, 0]]), "logits": to([[1, 0]] * 4)}
    method = CID(weight=0.5, sample_weight=10.0, class_weight=100.0)
    total, terms = method.loss(batch, outputs, heads)
    close(terms["sample"], 0.1236111111)
    close(terms["classes"], 0.0011387212)
    close(terms["distillation"], losses.distillation_loss(batch["teacher"]["logits"], outputs["plain"], 4.0))
    close(terms["cross_entropy"], losses.compute_plain_cross_entropy_loss(LABELS, outputs["logits"]))
    expected = 0.5 * (terms["cross_entropy"] + terms["distillation"]) + 10 * terms["sample"] + 100 * terms["classes"]
    close(total, expected, 10)


def test_once_there_is_a_context_the_head_is_trained():
    method = CID(context_after=0)
    student, heads, batch, _ = example(method)
    head = student.get_layer("intervention")
    head.ready.assign(1.0)
    head.context.assign(tf.random.stateless_uniform(head.context.shape, [0, 0]))
    images = tf.random.stateless_uniform([4, 28, 28, 1], [1, 0])
    with tf.GradientTape() as tape:
        outputs = with_taps(student, method.student_taps)(images, True)
        total, _ = method.loss(batch | {"epoch": tf.constant(0, tf.int64)}, outputs, heads)
    assert all(np.abs(g).max() > 0 for g in tape.gradient(total, [head.kernel.value, head.bias.value]))


def test_the_deployed_student_carries_its_head_and_the_regressor_is_left_behind(tmp_path):
    student, heads, *_ = example(CID())
    assert student.count_params() == 1_238_730 + 15_690 + 10 * 784 + 1
    assert heads["regressor"].count_params() == 100_480
    student.save(tmp_path / "student.keras")
    image = tf.random.stateless_uniform([2, 28, 28, 1], [0, 0])
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "student.keras")(image), student(image), atol=1e-6)


def test_with_two_classes_the_regressor_and_the_head_have_the_sizes_that_the_pools_give():
    def build(outputs):
        image = keras.Input((1280,))
        return keras.Model(image, layers.Dense(outputs, name="logits")(layers.Identity(name="pool")(image)))

    method = CID(teacher_layer="pool", student_layer="pool")
    student = method.make_student(build, 2)
    heads = method.make_heads(student, Sizes(images=2175, teacher={"logits": (2,), "feature": (2048,)}))
    assert heads["regressor"].count_params() == 2_623_488
    assert sum(v.numpy().size for v in student.get_layer("intervention").trainable_variables) == 5_122


def test_a_class_that_an_epoch_lacks_keeps_its_context():
    method = CID(context_after=1)
    student, heads, batch, outputs = example(method)
    head, contexts, means = student.get_layer("intervention"), [], []
    for epoch, labels in enumerate((LABELS, [2, 2, 2, 2], LABELS)):
        outputs["feature"] += 1.0
        means.append(tf.reduce_mean(outputs["feature"], axis=0))
        given = batch | {"label": tf.constant(labels, tf.int32), "epoch": tf.constant(epoch, tf.int64)}
        method.after_step(given, outputs, student, heads)
        contexts.append(head.context.numpy())
    assert contexts[1][:2].all() and not contexts[1][2].any()
    np.testing.assert_array_equal(contexts[2][:2], contexts[1][:2])
    np.testing.assert_allclose(contexts[2][2], means[1], rtol=1e-5)


def test_the_belief_that_weighs_the_contexts_gets_no_gradient():
    layer = Intervention(4.0)
    features, logits = tf.constant([[1.0, 2.0]]), tf.constant([[0.0, 4.0, 1.0]])
    layer([features, logits])
    layer.context.assign([[1.0, 0.0], [0.0, 5.0], [2.0, 0.0]])
    layer.kernel.assign([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    layer.ready.assign(1.0)
    to_features, to_logits = gradient(lambda f, z: tf.reduce_sum(layer([f, z])[:, 0]), features, logits)
    assert np.abs(to_features).max() > 0 and np.abs(to_logits).max() == 0
