import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.methods.fixtures import LABELS, Z_T, both_precisions, gradient
from utils import losses
from utils.distiller import with_taps
from utils.methods import SFTN, FriendlyTeacher, Sizes
from utils.methods.sftn import branch, imitation_loss
from utils.models import mnist_student, mnist_teacher

BRANCHES = {"pool1": [[1, 0.5, 0], [0, 0, 1]], "fc": [[2, 0, 0.5], [0.5, 0, 2]]}


def total(method, to):
    heads = {layer: lambda _, z=z: to(z) for layer, z in BRANCHES.items()}
    outputs = {"logits": to(Z_T), "pool1": None, "fc": None}
    return method.loss({"label": LABELS}, outputs, heads)


@both_precisions
def test_worked_numbers(to, close):
    found, terms = total(FriendlyTeacher(), to)
    close(terms["cross_entropy"], 0.3068820566)
    close(terms["branches"], 0.4611064523)
    close(terms["imitation"], 0.0825623481)
    close(found, 1.0156755533, 2)
    reverse, terms = total(FriendlyTeacher(reverse=True), to)
    close(terms["imitation"], 0.0911435589)
    close(reverse, 1.0414191857, 2)
    softer, terms = total(FriendlyTeacher(temperature=4.0, imitation=3.0 * 16), to)  # with T² in the weight
    close(terms["imitation"], 0.0082237157)
    close(softer, 1.1627268643, 2)
    close(total(FriendlyTeacher(branch=0.0, imitation=0.0), to)[0], losses.compute_teacher_loss(LABELS, to(Z_T)))


@both_precisions
def test_branches_that_agree_cost_nothing(to, close):
    heads = {"pool1": lambda _: to(Z_T), "fc": lambda _: to(Z_T)}
    found, _ = FriendlyTeacher().loss({"label": LABELS}, {"logits": to(Z_T), "pool1": None, "fc": None}, heads)
    close(found, 2 * losses.compute_teacher_loss(LABELS, to(Z_T)))


def test_a_branch_has_the_activation_of_the_layer_it_replaces_and_relu_where_that_has_none():
    image = keras.Input((8, 8, 1))
    pooled = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(4, 3)(image))
    student = keras.Model(image, layers.Dense(2, name="logits")(layers.Dense(3, "tanh", name="fc")(pooled)))
    for entry, width, activation in (("pool", 4, "relu"), ("fc", 3, "tanh")):
        *_, dense, tail = branch((6,), student, entry).layers
        assert (dense.units, dense.activation.__name__) == (width, activation)
        assert tail.output_shape == (None, 2)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_imitation_pulls_the_teacher_too(reverse):
    z_t, z_r = tf.constant(Z_T), tf.constant(BRANCHES["fc"])
    with tf.GradientTape() as tape:
        tape.watch([z_t, z_r])
        loss = imitation_loss(z_t, z_r, 1.0, reverse)
    assert all(np.abs(g).max() > 1e-3 for g in tape.gradient(loss, [z_t, z_r]))


@both_precisions
def test_the_imitations_pull_on_the_teachers_logits_is_that_of_the_formula(to, close):
    def imitation(z):
        heads = {layer: lambda _, answer=answer: to(answer) for layer, answer in BRANCHES.items()}
        outputs = {"logits": z, "pool1": None, "fc": None}
        return FriendlyTeacher(ce_weight=0.0).loss({"label": LABELS}, outputs, heads)[0]

    (found,) = gradient(imitation, to(Z_T))
    log_p = tf.nn.log_softmax(to(Z_T)).numpy()
    p, expected = np.exp(log_p), 0.0
    for z in BRANCHES.values():  # d KL(p || q) / d z_T = p (log p / q - KL)
        excess = log_p - tf.nn.log_softmax(to(z)).numpy()
        expected += 3 * p * (excess - np.sum(p * excess, axis=1, keepdims=True)) / len(BRANCHES) / len(LABELS)
    close(found, expected)


def test_what_the_branches_say_reaches_the_teachers_own_layers():
    def dense(*units):
        parts = [layers.Dense(n, "relu", name=f"fc{i}") for i, n in enumerate(units, 1)]
        return keras.Sequential([keras.Input((6,)), *parts, layers.Dense(3, name="logits")])

    keras.utils.set_random_seed(0)
    teacher, both = dense(8, 9), (("fc1", "fc1"), ("fc2", "fc2"))
    batch = {"image": tf.random.stateless_uniform([5, 6], [0, 0]), "label": np.array([0, 1, 2, 0, 1], np.int32)}

    def slopes(layer, entries=both, **weights):
        weights = {"ce_weight": 0.0, "branch": 0.0, "imitation": 0.0} | weights
        method = FriendlyTeacher(student=lambda outputs: dense(7, 4), entries=entries, **weights)
        heads = method.make_heads(teacher, Sizes())
        with tf.GradientTape() as tape:
            outputs = with_taps(teacher, method.student_taps)(batch["image"], True)
            total, _ = method.loss(batch, outputs, heads)
        return np.abs(tape.gradient(total, teacher.get_layer(layer).kernel.value)).max()

    assert slopes("logits", imitation=1.0) > 1e-3  # no branch has it below: the pull is on the teacher's logits
    for entry in both:
        name = entry[0]
        assert slopes(name, (entry,), branch=1.0) > 1e-3  # the cross-entropy of a branch, through its tap alone


def test_the_branches_end_in_fresh_copies_of_the_students_tail():
    student = mnist_student()
    from_map, from_features = branch((25, 25, 32), student, "fc1"), branch((128,), student, "fc2")
    tail = 615_440 + 7_850
    assert from_map.count_params() == 627_984 + tail and from_features.count_params() == 101_136 + 7_850
    teacher = mnist_teacher()
    heads = FriendlyTeacher().make_heads(teacher, Sizes())
    ids = [id(v) for head in heads.values() for v in head.trainable_variables]
    assert len(set(ids)) == len(ids) == 6 + 4


def test_the_friendly_teacher_ends_in_the_students_own_tail():
    asked = []

    class Teacher:
        build_model = mnist_teacher

    SFTN(imitation=6.0).prepare_teacher(lambda build, own: asked.append((build, own)), Teacher, mnist_student)
    assert asked == [(mnist_teacher, FriendlyTeacher(student=mnist_student, imitation=6.0))]
