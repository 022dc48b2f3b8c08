import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.methods.fixtures import both_precisions, finite, gradient
from utils.methods import CRD, KD, Sizes
from utils.methods.crd import in_batch_contrast, noise_contrastive_loss, renewed
from utils.models import mnist_student


@both_precisions
def test_worked_numbers_of_the_memory(to, close):
    scores = tf.exp(tf.linalg.matvec(to([(1, 0), (0, 1), (-1, 0)]), to((0.6, 0.8))) / 0.5)
    close(scores, [3.3201169227, 4.9530324244, 0.3011942119], 10)
    scale = 10 * tf.reduce_mean(scores)
    close(scale, 28.5811451968, 10)
    probabilities = scores / scale
    close(probabilities, [0.1161645868, 0.1732971996, 0.0105382136])
    counted = tf.ones([1, 2], tf.bool)
    for values, expected in ((probabilities, 1.6766622098), (scores, 4.2261937878)):
        close(noise_contrastive_loss(values[:1], values[None, 1:], counted, 10, epsilon=0), expected, 10)
    # InfoNCE of the first of the three; the two that share its anchor differ from it by their own scores alone.
    alike = in_batch_contrast(to([(0.6, 0.8)] * 3), to([(1, 0), (0, 1), (-1, 0)]), tf.range(3), 0.5)
    close(alike, 0.9487744372 + 1.2 - (1.2 + 1.6 - 1.2) / 3)
    close(renewed(to([(1, 0)]), to([(0.6, 0.8)]), 0.5), [[0.8944271910, 0.4472135955]])


@both_precisions
def test_worked_numbers_within_the_batch(to, close):
    ours, theirs = to([(1, 0), (0, 1), (0.6, 0.8)]), to([(0.8, 0.6), (0, 1), (1, 0)])
    labels = tf.constant([0, 1, 0])
    close(in_batch_contrast(ours, theirs, labels, 0.5), 0.5190961823)
    close(in_batch_contrast(theirs, ours, labels, 0.5), 0.4557404363)
    close(in_batch_contrast(ours, theirs, tf.range(3), 0.5), 0.9885335332)  # all others as negatives


def test_negatives_of_the_same_class_do_not_count():
    positive, negative = tf.constant([0.5, 0.5]), tf.constant([[0.1, 9.0], [0.1, 9.0]])
    counted = tf.constant([[True, False], [True, False]])
    alone = noise_contrastive_loss(positive, negative[:, :1], counted[:, :1], 10)
    assert float(noise_contrastive_loss(positive, negative, counted, 10)) == pytest.approx(float(alone))
    nobody = noise_contrastive_loss(positive, negative, tf.zeros([2, 2], tf.bool), 10)
    assert abs(float(nobody)) < 1e-5


def example(method, images=6):
    keras.utils.set_random_seed(0)
    student = keras.Sequential([keras.Input((2,)), layers.Dense(4, name="fc2"), layers.Dense(3, name="logits")])
    heads = method.make_heads(student, Sizes(images=images, teacher={"logits": (3,), "feature": (5,)}))
    rng = np.random.default_rng(0)
    batch = {
        "label": tf.constant([0, 1, 2], tf.int32),
        "index": tf.constant([4, 1, 2], tf.int64),
        "teacher": {"logits": tf.zeros([3, 3]), "feature": tf.constant(rng.normal(size=(3, 5)), tf.float32)},
    }
    feature = tf.constant(rng.normal(size=(3, 4)), tf.float32)
    return student, heads, batch, {"logits": tf.zeros([3, 3]), "feature": feature}


def test_the_memory_is_renewed_at_the_right_rows_after_use_and_trains_nothing():
    method = CRD(width=4, negatives=5)
    student, heads, batch, outputs = example(method)
    memory = heads["memory"]
    assert [v.shape for v in heads["student"].trainable_variables] == [(4, 4), (4,)]
    assert memory.trainable_variables == []
    before, teacher_before = memory.student.numpy(), memory.teacher.numpy()
    _, terms = method.loss(batch, outputs, heads)
    np.testing.assert_array_equal(memory.student, before)
    method.after_step(batch, outputs, student, heads)
    np.testing.assert_array_equal(memory.labels, [-1, 1, 2, -1, 0, -1])
    for bank, old, head, value in (
        (memory.student, before, heads["student"], outputs["feature"]),
        (memory.teacher, teacher_before, heads["teacher"], batch["teacher"]["feature"]),
    ):
        np.testing.assert_array_equal(bank.numpy()[[0, 3, 5]], old[[0, 3, 5]])
        expected = renewed(old[[4, 1, 2]], head(value), 0.5)
        np.testing.assert_allclose(bank.numpy()[[4, 1, 2]], expected, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(bank.numpy()[[4, 1, 2]], axis=1), 1, atol=1e-6)
    assert np.isfinite(terms["contrast"])


def test_the_two_memories_start_apart_and_with_the_seed():
    memories = [example(CRD(width=4))[1]["memory"] for _ in range(2)]
    first, second = memories
    assert not np.allclose(first.student, first.teacher) and np.abs(first.student).max() <= (3 / 4) ** 0.5
    np.testing.assert_array_equal(first.teacher, second.teacher)
    assert first.seed == second.seed


def test_the_contrast_against_a_filled_memory_is_that_of_the_formula():
    method = CRD(width=4, negatives=5, contrast_temperature=0.5)
    _, heads, batch, outputs = example(method)
    memory = heads["memory"]
    memory.labels.assign([0, 1, 2, 0, 0, 1])
    rng = np.random.default_rng(1)
    for bank in (memory.student, memory.teacher):
        rows = rng.normal(size=bank.shape)
        bank.assign(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    found = method.loss(batch, outputs, heads)[1]["contrast"]
    drawn = tf.random.stateless_uniform([5], [0, memory.seed], 0, 6, tf.int32).numpy()
    ours, theirs = (
        heads[name](value).numpy()
        for name, value in (("student", outputs["feature"]), ("teacher", batch["teacher"]["feature"]))
    )
    expected = 0.0
    for anchors, bank in ((ours, memory.teacher.numpy()), (theirs, memory.student.numpy())):
        positive = np.exp(np.sum(anchors * bank[[4, 1, 2]], axis=1) / 0.5)
        negative = np.exp(anchors @ bank[drawn].T / 0.5)
        z = np.concatenate([positive[:, None], negative], axis=1).mean() * 6
        for i, label in enumerate((0, 1, 2)):
            others = negative[i, memory.labels.numpy()[drawn] != label] / z
            noise, own = len(others) / 6, positive[i] / z
            terms = np.log(own / (own + noise)) + np.sum(np.log(noise / (others + noise)))
            expected -= terms / 3
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_scale_is_set_by_the_first_batch_and_stays():
    method = CRD(width=4, negatives=5)
    student, heads, batch, outputs = example(method)
    scales = []
    for _ in range(2):
        method.loss(batch, outputs, heads)
        method.after_step(batch, outputs, student, heads)
        scales.append([float(scale) for scale in heads["memory"].scale])
    assert scales[0] == scales[1] and min(scales[0]) > 0


@pytest.mark.parametrize("memory", [True, False])
def test_gradients_reach_the_student_and_both_projections_but_not_the_teacher(memory):
    method = CRD(width=4, negatives=5, memory=memory)
    student, heads, batch, outputs = example(method)
    method.loss(batch, outputs, heads)
    method.after_step(batch, outputs, student, heads)  # now the memory knows some classes

    def contrast(ours, theirs):
        told = batch["teacher"] | {"feature": theirs}
        return method.loss(batch | {"teacher": told}, outputs | {"feature": ours}, heads)[1]["contrast"]

    to_student, to_teacher = gradient(contrast, outputs["feature"], batch["teacher"]["feature"])
    assert finite(to_student) and np.abs(to_student).max() > 0 and to_teacher is None
    with tf.GradientTape() as tape:
        total, _ = method.loss(batch, outputs, heads)
    for gradients in tape.gradient(total, [head.trainable_variables[0] for head in list(heads.values())[:2]]):
        assert np.abs(gradients).max() > 0


def test_held_out_images_have_no_rows_in_the_memory_and_a_weight_of_0_leaves_cross_entropy():
    method = CRD(width=4, negatives=5, beta=0.0)
    _, heads, batch, outputs = example(method)
    total, terms = method.held_out_loss(batch | {"index": tf.constant([900, 901, 902], tf.int64)}, outputs, heads)
    assert total == terms["cross_entropy"] == method.loss(batch, outputs, heads)[0]


@pytest.mark.parametrize("memory", [True, False])
def test_the_contrast_is_weighed_by_beta_beside_kd(memory):
    method = CRD(width=4, negatives=5, beta=0.3, alpha=0.4, temperature=2.0, memory=memory)
    student, heads, batch, outputs = example(method)
    batch["teacher"]["logits"] = tf.constant([[2.0, 1, 0], [0, 3, 1], [1, 0, 0]])
    method.loss(batch, outputs, heads)
    method.after_step(batch, outputs, student, heads)  # now the memory knows some classes
    total, terms = method.loss(batch, outputs, heads)
    kd, _ = KD(0.4, 2.0).loss(batch, outputs, {})
    assert terms["contrast"] > 0.1 and terms["distillation"] > 0.1
    np.testing.assert_allclose(kd, 0.6 * terms["cross_entropy"] + 0.4 * terms["distillation"], rtol=1e-6)
    np.testing.assert_allclose(total, kd + 0.3 * terms["contrast"], rtol=1e-6)


def test_the_mnist_heads_have_the_sizes_the_assignments_layers_give():
    heads = CRD().make_heads(mnist_student(), Sizes(images=3, teacher={"logits": (10,), "feature": (128,)}))
    assert (heads["teacher"].count_params(), heads["student"].count_params()) == (16_512, 100_480)
    assert heads["memory"].student.shape == heads["memory"].teacher.shape == (3, 128)


def test_the_heads_between_resnet50v2_and_mobilenetv2_have_the_sizes_their_pools_give():
    student = keras.Sequential([keras.Input((1280,)), layers.Identity(name="pool"), layers.Dense(2, name="logits")])
    method = CRD(teacher_layer="pool", student_layer="pool")
    heads = method.make_heads(student, Sizes(images=2175, teacher={"logits": (2,), "feature": (2048,)}))
    assert (heads["teacher"].count_params(), heads["student"].count_params()) == (262_272, 163_968)


def test_each_batch_draws_its_negatives_anew(monkeypatch):
    method, drawn, draw = CRD(width=4, negatives=5), [], tf.random.stateless_uniform
    student, heads, batch, outputs = example(method, images=40)

    def noted(*given, **named):
        drawn.append(draw(*given, **named))
        return drawn[-1]

    monkeypatch.setattr(tf.random, "stateless_uniform", noted)
    for _ in range(2):
        method.loss(batch, outputs, heads)
        method.after_step(batch, outputs, student, heads)
    first, second = drawn
    assert not np.array_equal(first, second)
