"""What holds for every method of METHODS, which are trained here as a run trains them, on tiny data; and, for its
loss, for every stage or teacher of theirs."""

import importlib
import inspect
import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.methods.fixtures import finite
from utils import methods as package
from utils import training
from utils.data import Dataset, Split
from utils.data.pipeline import View
from utils.distiller import Distiller, signal_shapes, with_taps
from utils.methods import (
    DKD,
    METHODS,
    FriendlyTeacher,
    OnSubclasses,
    Scratch,
    Sizes,
    SubclassLabels,
    SubclassTeacher,
)
from utils.methods.fitnets import Hint

CLASSES = 3
CLASS_OF = (0, 0, 1, 1, 2, 2)
# Not run by name, but as stages, as teachers, or around another method.
PARTS = {
    "hint": Hint,
    "friendly_teacher": FriendlyTeacher,
    "subclass_teacher": SubclassTeacher,
    "subclass_labels": SubclassLabels,
    "on_subclasses": OnSubclasses,
}
LOSSES = METHODS | PARTS
# Each at the start of training; two also later on, when their memory, or their context, has been filled.
STATES = [*((name, False) for name in LOSSES), ("crd", True), ("cid", True)]
# What differs from the defaults, which are those of MNIST.
OPTIONS = {
    "fitnets": {"hint_epochs": 1},
    "crd": {"width": 8, "negatives": 16},
    "takd": {"assistants": ("tiny_assistant",)},
    "subclass": {"subclasses": 2},
    "skd": {"class_of": CLASS_OF},
    "eskd": {"stop_after": 1, "teacher_epochs": 1},
    "cid": {"context_after": 1},
    "sftn": {"entries": (("fc", "fc2"),)},
    "hint": {"student_layer": "fc1"},
    "friendly_teacher": {"student": lambda outputs: network(outputs), "entries": (("fc", "fc2"),)},
    "subclass_teacher": {"subclasses": 2},
    "subclass_labels": {"class_of": CLASS_OF},
    "on_subclasses": {"inner": DKD(warmup=0), "class_of": CLASS_OF},
}
# The settings at which a method is plain cross-entropy of the classes.
PLAIN = {
    "kd": {"alpha": 0.0},
    "fitnets": {"alpha": 0.0, "hint_epochs": 0},
    "rkd": {"distance": 0.0, "angle": 0.0},
    "crd": {"beta": 0.0},
    "takd": {"alpha": 0.0},
    "subclass": {"alpha": 0.0},
    "skd": {"alpha": 0.0, "hard": "class"},
    "eskd": {"stop_after": 0},
    "sftn": {"alpha": 0.0},
    "extractive": {"ce_weight": 1.0, "weight": 0.0},
    "dkd": {"alpha": 0.0, "beta": 0.0},
    "dist": {"weight": 0.0},
    "lskd": {"ce_weight": 1.0, "weight": 0.0},
    "ensemble": {"alpha": 0.0},
    "friendly_teacher": {"branch": 0.0, "imitation": 0.0},
    "subclass_teacher": {"beta": 0.0},
}
# Why the others never are.
NEVER_PLAIN = {
    "cid": "its first phase has no cross-entropy, and later one weight is of it and of the KL",
    "patient": "it reads no labels",
    "hint": "it reads no labels",
    "subclass_labels": "its cross-entropy is of the subclasses",
    "on_subclasses": "its cross-entropy is of the subclasses",
}


def make(name, **options):
    return LOSSES[name](**(OPTIONS.get(name, {}) | options))


def network(outputs=CLASSES, width=8):
    body = [layers.Dense(width, "relu", name="fc1"), layers.Dropout(0.2), layers.Dense(7, "relu", name="fc2")]
    parts = [layers.Flatten(), *body, layers.Dense(outputs, name="logits")]
    return _chain(keras.Input((4, 4, 1)), parts)


def teacher_network(outputs=CLASSES):
    parts = [layers.Flatten(), layers.Dense(9, "relu", name="fc"), layers.Dense(outputs, name="logits")]
    return _chain(keras.Input((4, 4, 1)), parts)


def _chain(given, parts):
    x = given
    for part in parts:
        x = part(x)
    return keras.Model(given, x)


@pytest.fixture(scope="module")
def data():
    """Three classes of 4x4 images, told apart by which row is bright; which half is tells the subclass."""
    rng = np.random.default_rng(0)

    def split(n):
        finer = (np.arange(n) % 6).astype(np.int32)
        images = rng.integers(0, 120, (n, 4, 4, 1)).astype(np.uint8)
        images[np.arange(n), finer // 2, finer % 2] += 100
        return Split(images, finer // 2, subclasses=finer)

    return Dataset("tiny", "made for tests", ("a", "b", "c"), split(60), split(18), split(18))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    from utils import models

    monkeypatch.setattr(models, "tiny_assistant", tiny_assistant, raising=False)
    return {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}


def tiny_assistant(outputs=CLASSES):
    return teacher_network(outputs)


def train(method, data, folders, **options):
    options = {"epochs": 2, "batch_size": 16} | options
    return training.train_and_evaluate(options.pop("build", network), method, data, **options, **folders)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("teachers")
    folders = {"runs": folder / "runs", "cache": folder / "cache"}
    return tuple(train(Scratch(), data, folders, build=teacher_network, seed=seed) for seed in (1, 2))


@pytest.mark.parametrize("name", METHODS)
def test_it_trains_through_the_same_door_and_is_found_again(name, data, folders, teachers, monkeypatch):
    teacher = teachers if name == "ensemble" else teachers[0]
    view = View(0.5, 5, 0) if name == "patient" else None  # which is made for views; tracing them takes long
    run = train(make(name), data, folders, teacher=teacher, view=view)
    assert set(run.record["history"]) == {"loss", "accuracy", *make(name).terms}
    assert np.isfinite(run.record["history"]["loss"]).all() and 0 <= run.accuracy <= 1
    assert run.model()(tf.zeros([1, 4, 4, 1])).shape == (1, CLASSES)
    monkeypatch.setattr(Distiller, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert train(make(name), data, folders, teacher=teacher, view=view).record == run.record


@pytest.mark.parametrize("name", METHODS)
def test_it_starts_from_the_weights_of_the_seed_whatever_its_heads(name):
    keras.utils.set_random_seed(5)
    plain = network()
    keras.utils.set_random_seed(5)
    method = make(name)
    student = method.make_student(network, CLASSES)
    method.make_heads(student, Sizes(images=20, teacher={"logits": (CLASSES,), "feature": (9,)}))
    for layer in ("fc1", "fc2"):
        np.testing.assert_array_equal(student.get_layer(layer).kernel, plain.get_layer(layer).kernel)


def parts_of(name, n=6, seed=0, later=False, **options):
    """A method with student, heads and a batch, as the Distiller would hold them; `later`, after some epochs."""
    keras.utils.set_random_seed(seed)
    method = make(name, **options)
    wants_subclasses = "subclass" in dict(method.teacher_taps)
    teacher = method.make_student(teacher_network, CLASSES) if wants_subclasses else teacher_network()
    student = method.make_student(teacher_network if name == "friendly_teacher" else network, CLASSES)
    heads = method.make_heads(student, Sizes(images=20, teacher=signal_shapes(teacher, method.teacher_taps)))
    rng = np.random.default_rng(seed)
    images = tf.constant(rng.random((n, 4, 4, 1)), tf.float32)
    told = with_taps(teacher, method.teacher_taps)(images, False)
    if name == "ensemble":
        told["members"] = tf.stack([told["logits"], -told["logits"]], axis=1)
    labels = np.arange(n, dtype=np.int32) % CLASSES
    batch = {"image": images, "label": labels, "subclass": 2 * labels, "index": np.arange(n), "epoch": np.int64(0)}
    batch["teacher"] = told if method.needs_teacher else {}
    if later:
        batch["epoch"] = np.int64(9)
        if name == "crd":
            heads["memory"].labels.assign(np.arange(20) % CLASSES)
        if name == "cid":
            head = student.get_layer("intervention")
            head.ready.assign(1.0)
            head.context.assign(rng.normal(size=head.context.shape))
    return method, student, heads, batch


@pytest.mark.parametrize(("name", "later"), STATES)
@pytest.mark.parametrize("n", [6, 1])  # 1: the last partial batch
def test_gradients_are_finite_reach_every_trained_part_and_stop_at_the_teacher(name, later, n):
    method, student, heads, batch = parts_of(name, n, later=later)
    variables = method.trained_variables(student, heads)
    with tf.GradientTape() as tape:
        tape.watch(batch["teacher"])
        outputs = with_taps(student, method.student_taps)(batch["image"], False)
        total, terms = method.loss(batch, outputs, heads)
    assert np.isfinite(total) and set(terms) == set(method.terms)
    told = tf.nest.flatten(batch["teacher"])
    found = tape.gradient(total, variables + told)
    assert found[len(variables) :] == [None] * len(told)
    gradients = found[: len(variables)]
    for variable, one in zip(variables, gradients, strict=True):
        assert finite(tf.convert_to_tensor(one)), variable.path
        # The interventional head rests until there is a context.
        resting = name == "cid" and not later and "intervention" in variable.path
        assert n == 1 or resting or np.abs(tf.convert_to_tensor(one)).max() > 0, variable.path


@pytest.mark.parametrize(("name", "later"), STATES)
def test_confident_and_equal_logits_leave_finite_gradients(name, later):
    method, student, heads, batch = parts_of(name, later=later)
    outputs = with_taps(student, method.student_taps)(batch["image"], False)
    for scale in (0.0, 500.0):
        told = {key: scale * value for key, value in batch["teacher"].items()}
        given = {key: scale * value for key, value in outputs.items()}
        with tf.GradientTape() as tape:
            tape.watch(given)
            total, _ = method.loss(batch | {"teacher": told}, given, heads)
        gradients = [g for g in tape.gradient(total, tf.nest.flatten(given)) if g is not None]
        assert np.isfinite(total) and finite(*gradients), scale


@pytest.mark.parametrize(("name", "later"), STATES)
def test_the_order_within_a_batch_does_not_matter(name, later):
    method, student, heads, batch = parts_of(name, later=later)
    outputs = with_taps(student, method.student_taps)(batch["image"], False)
    order = np.array([4, 1, 0, 5, 3, 2])

    def permuted(values):
        return {
            key: permuted(v) if isinstance(v, dict) else (v if np.ndim(v) == 0 else tf.gather(v, order))
            for key, v in values.items()
        }

    before, _ = method.loss(batch, outputs, heads)
    after, _ = method.loss(permuted(batch), permuted(outputs), heads)
    np.testing.assert_allclose(before, after, rtol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_at_weight_0_it_is_cross_entropy(name):
    method, student, heads, batch = parts_of(name, **PLAIN[name])
    outputs = with_taps(student, method.student_taps)(batch["image"], False)
    expected = Scratch().loss(batch, outputs, {})[0]
    np.testing.assert_allclose(method.loss(batch, outputs, heads)[0], expected, rtol=1e-6)


def test_the_others_have_a_reason():
    assert set(LOSSES) - set(PLAIN) == set(NEVER_PLAIN)


@pytest.mark.parametrize(("name", "later"), STATES)
def test_xla_gives_the_same_loss(name, later):
    method, student, heads, batch = parts_of(name, later=later)
    outputs = with_taps(student, method.student_taps)(batch["image"], False)
    compiled = tf.function(lambda b, o: method.loss(b, o, heads)[0], jit_compile=True)
    np.testing.assert_allclose(compiled(batch, outputs), method.loss(batch, outputs, heads)[0], rtol=1e-4)


def test_one_file_for_each_method_with_its_paper():
    folder = Path(package.__file__).parent
    for name, method in METHODS.items():
        assert Path(inspect.getfile(method)).parent == folder and method.name == name
        assert len(method.paper) > 20 and replace(make(name)) == make(name)
        assert inspect.getdoc(method)


def test_a_seventeenth_method_is_one_file_and_one_line(data, folders, teachers, tmp_path, monkeypatch):
    readme = (Path(package.__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r'```python\n(""".*?)```', readme, re.DOTALL)
    assert len(code.splitlines()) < 30
    (tmp_path / "matching_from_the_readme.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("matching_from_the_readme")
    monkeypatch.setitem(METHODS, "matching", module.Matching)
    run = train(METHODS["matching"](), data, folders, teacher=teachers[0])
    assert set(run.record["history"]) == {"loss", "accuracy", "cross_entropy", "matching"}
    assert run.record["config"]["method"] == "matching"
    # As the README promises, what is asked above of the others can be asked of it.
    monkeypatch.setitem(LOSSES, "matching", module.Matching)
    monkeypatch.setitem(PLAIN, "matching", {"weight": 0.0})
    test_gradients_are_finite_reach_every_trained_part_and_stop_at_the_teacher("matching", later=False, n=6)
    test_confident_and_equal_logits_leave_finite_gradients("matching", later=False)
    test_the_order_within_a_batch_does_not_matter("matching", later=False)
    test_at_weight_0_it_is_cross_entropy("matching")
    test_xla_gives_the_same_loss("matching", later=False)
