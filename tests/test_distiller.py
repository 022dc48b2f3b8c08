"""One test for each contract of the Distiller, on tiny networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from utils.distiller import Distiller, TrainingFailed, with_taps
from utils.methods import KD, Method, Scratch

CLASSES = 3


@keras.saving.register_keras_serializable()
class SeesTraining(layers.Layer):
    """Adds 0 in inference and 100 in training: outputs tell which mode a layer saw."""

    def call(self, x, training=None):
        return x + 100.0 if training else x


def network(seed, *, width=8, extra=(), activation="relu"):
    keras.utils.set_random_seed(seed)
    body = [
        layers.Flatten(),
        layers.Dense(width, activation, name="hidden"),
        *extra,
        layers.Dense(CLASSES, name="logits"),
    ]
    return keras.Sequential([keras.Input((2, 2, 1)), *body])


def batches(n=20, batch_size=8, teacher=None, repeat=1, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.random((n, 2, 2, 1), np.float32)
    parts = {"image": images, "label": rng.integers(0, CLASSES, n).astype(np.int32), "index": np.arange(n)}
    if teacher is not None:
        parts["teacher"] = {"logits": teacher(images, training=False).numpy()}
    return tf.data.Dataset.from_tensor_slices(parts).batch(batch_size).repeat(repeat)


def compiled(student, teacher, method, **options):
    distiller = Distiller(student, teacher, method)
    distiller.compile(keras.optimizers.Adam(0.01), **{"jit_compile": False} | options)
    return distiller


def fit(distiller, data, **options):
    return distiller.fit(data, shuffle=False, verbose=0, **options)


def weights_of(model):
    return [w.copy() for w in model.get_weights()]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("jit", [False, True])
def test_fit_moves_the_student_and_leaves_the_teacher_bit_identical(jit):
    teacher = network(1, extra=[layers.BatchNormalization(), layers.Dropout(0.5)])
    student = network(2)
    before_teacher, before_student = weights_of(teacher), weights_of(student)
    fit(compiled(student, teacher, KD(), jit_compile=jit), batches(), epochs=2)
    assert same(before_teacher, weights_of(teacher))
    assert not any(np.array_equal(a, b) for a, b in zip(before_student, weights_of(student), strict=True))
    assert teacher.trainable  # nor is its flag changed behind the owner's back


def test_only_the_students_variables_are_trained_counted_and_saved():
    student = network(2)
    distiller = Distiller(student, network(1, width=50), KD())
    assert [v.path for v in distiller.trainable_variables] == [v.path for v in student.trainable_variables]
    assert sum(np.prod(v.shape) for v in distiller.trainable_variables) == student.count_params()


def test_the_student_trains_in_training_mode_and_everything_else_runs_in_inference_mode():
    # With the layer's +100, the logits of a head of ones differ by 800 in training mode.
    teacher, student = network(1, extra=[SeesTraining()]), network(2, extra=[SeesTraining()])
    distiller = compiled(student, teacher, KD(alpha=1.0, temperature=1.0))
    batch = next(iter(batches()))
    inference = teacher(batch["image"], training=False)
    np.testing.assert_array_equal(distiller.with_teacher_signals(batch)["teacher"]["logits"], inference)
    np.testing.assert_array_equal(distiller.predict(batch["image"], verbose=0), student(batch["image"], training=False))
    seen = []

    class Spy(KD):
        def loss(self, batch, outputs, heads):
            seen.append(outputs["logits"])
            return super().loss(batch, outputs, heads)

    spied = compiled(student, teacher, Spy(), run_eagerly=True)
    expected_training = student(batch["image"], training=True)
    expected_inference = student(batch["image"], training=False)
    spied.train_step(batch)
    np.testing.assert_allclose(seen.pop(), expected_training)
    expected_inference = student(batch["image"], training=False)
    spied.test_step(batch)
    np.testing.assert_allclose(seen.pop(), expected_inference)


def test_the_call_passes_training_on():
    distiller = Distiller(network(2, extra=[SeesTraining()]), None, Scratch())
    image = tf.zeros([1, 2, 2, 1])
    assert not np.allclose(distiller(image, training=True), distiller(image, training=False))


def test_the_roles_are_not_swapped():
    teacher, student = network(1), network(2)
    batch = next(iter(batches()))
    distiller = compiled(student, teacher, KD(alpha=1.0, temperature=2.0))
    p = tf.nn.softmax(teacher(batch["image"]) / 2.0).numpy()
    q = tf.nn.softmax(student(batch["image"]) / 2.0).numpy()
    expected = 4 * np.mean(np.sum(p * np.log(p / q), axis=1))
    assert float(distiller.test_step(batch)["loss"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("block", [1, 3])
def test_the_logged_figures_are_means_over_the_images_of_the_epoch(jit, block):
    # At a learning rate of 0 every step sees the same student, so the epoch's mean is known exactly;
    # 20 images in batches of 8 end in a batch of 4.
    teacher, student = network(1), network(2)
    distiller = Distiller(student, teacher, KD(alpha=0.3, temperature=2.0))
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=jit, steps_per_execution=block)
    history = fit(distiller, batches(teacher=teacher), epochs=2).history
    whole = next(iter(batches(batch_size=20)))
    z_t, z_s = teacher(whole["image"]), student(whole["image"])
    hard = np.mean(tf.nn.sparse_softmax_cross_entropy_with_logits(whole["label"], z_s))
    p, q = tf.nn.softmax(z_t / 2.0).numpy(), tf.nn.softmax(z_s / 2.0).numpy()
    soft = 4 * np.mean(np.sum(p * np.log(p / q), axis=1))
    expected = {
        "cross_entropy": hard,
        "distillation": soft,
        "loss": 0.7 * hard + 0.3 * soft,
        "accuracy": np.mean(np.argmax(z_s, -1) == whole["label"]),
    }
    assert set(history) == set(expected)
    for name, value in expected.items():
        assert history[name] == pytest.approx([value, value], rel=1e-5), name


def test_cached_signals_and_the_live_teacher_give_the_same_training():
    teacher = network(1, extra=[layers.Dropout(0.5)])
    ends, histories = [], []
    for cached in (True, False):
        student = network(2)
        distiller = compiled(student, None if cached else teacher, KD())
        history = fit(distiller, batches(teacher=teacher if cached else None), epochs=3)
        histories.append(history.history["loss"])
        ends.append(weights_of(student))
    np.testing.assert_allclose(histories[0], histories[1], atol=1e-5)
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("live", [False, True])
def test_xla_blocks_train_as_single_steps_do(live):
    teacher, ends = network(1), []
    for options in ({}, {"jit_compile": True, "steps_per_execution": 3}, {"jit_compile": True}, {"run_eagerly": True}):
        student = network(2)
        distiller = compiled(student, teacher if live else None, KD(), **options)
        data = batches(teacher=None if live else teacher, repeat=2)
        fit(distiller, data, epochs=2, steps_per_epoch=3)
        assert int(distiller.optimizer.iterations) == 6
        ends.append(weights_of(student))
    for end in ends[1:]:
        for a, b in zip(ends[0], end, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_alpha_0_trains_exactly_as_from_scratch():
    teacher, ends = network(1), []
    for method in (KD(alpha=0.0), Scratch()):
        student = network(2)
        fit(compiled(student, teacher, method), batches(), epochs=2)
        ends.append(weights_of(student))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_another_temperature_gives_another_student():
    teacher, ends = network(1), []
    for temperature in (1.0, 8.0):
        student = network(2)
        fit(compiled(student, teacher, KD(temperature=temperature)), batches(), epochs=2)
        ends.append(weights_of(student))
    assert not same(*ends)


def test_hyperparameters_cannot_be_changed_after_the_graph_was_traced():
    with pytest.raises(AttributeError):
        KD().temperature = 2.0


def test_callbacks_evaluate_predict_and_saving_work_as_for_any_keras_model(tmp_path):
    teacher, student = network(1), network(2)
    distiller = compiled(student, teacher, KD())
    stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, min_delta=1e9)
    history = fit(distiller, batches(), validation_data=batches(seed=1), epochs=9, callbacks=[stop])
    assert len(history.history["val_accuracy"]) == 2
    result = distiller.evaluate(batches(seed=1), verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(history.history["val_loss"][-1], rel=1e-5)
    assert distiller.predict(batches(), verbose=0).shape == (20, CLASSES)
    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    images = next(iter(batches()))["image"]
    np.testing.assert_array_equal(loaded(images), student(images))


def test_a_checkpoint_of_weights_brings_back_student_and_method(tmp_path):
    teacher, student = network(1), network(2)
    distiller = compiled(student, teacher, KD())
    path = tmp_path / "best.weights.h5"
    keep = keras.callbacks.ModelCheckpoint(path, monitor="loss", save_best_only=True, save_weights_only=True)
    fit(distiller, batches(), epochs=2, callbacks=[keep])
    kept = weights_of(student)
    fit(distiller, batches(), epochs=1)
    assert not same(weights_of(student), kept)
    distiller.load_weights(path)
    assert same(weights_of(student), kept)


@pytest.mark.parametrize("options", [{}, {"jit_compile": True, "steps_per_execution": 2}])
def test_the_first_loss_that_is_not_finite_ends_the_training_and_names_its_step(options):
    student = network(2, activation=None)  # TensorFlow's ReLU turns NaN into 0 on CPUs
    data = batches(n=32, batch_size=8).enumerate()
    data = data.map(lambda i, b: b | {"image": tf.where(i == 2, float("nan"), 1.0) * b["image"]})
    distiller = compiled(student, None, Scratch(), **options)
    with pytest.raises(TrainingFailed, match="at step 2"):
        fit(distiller, data, epochs=1, steps_per_epoch=4)


def test_after_a_failure_the_distiller_can_be_fitted_again():
    distiller = compiled(network(2), None, Scratch())
    before = weights_of(distiller.student)
    distiller.failed_at.assign(5)
    fit(distiller, batches())
    assert int(distiller.failed_at) == -1 and not same(before, weights_of(distiller.student))


def test_missing_teacher_signals_are_an_error_in_words():
    with pytest.raises(ValueError, match="without a live teacher"):
        compiled(network(2), None, KD(), run_eagerly=True).train_step(next(iter(batches())))


def test_an_unbuilt_student_is_refused():
    with pytest.raises(ValueError, match="no weights yet"):
        Distiller(keras.Sequential([layers.Dense(3)]), None, Scratch())


def test_taps_give_the_named_layers_beside_the_logits():
    model = network(1)
    images = next(iter(batches()))["image"]
    found = with_taps(model, {"feature": "hidden"})(images, False)
    np.testing.assert_allclose(found["logits"], model(images), rtol=1e-6)
    assert found["feature"].shape == (8, 8)
    with pytest.raises(ValueError, match=r"no layer named \['absent'\]"):
        with_taps(model, {"feature": "absent"})


def test_layers_weight_decay_is_part_of_the_loss():
    keras.utils.set_random_seed(0)
    head = layers.Dense(CLASSES, kernel_regularizer=keras.regularizers.L2(1.0))
    student = keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten(), head])
    distiller = compiled(student, None, Scratch(), run_eagerly=True)
    penalty = float(tf.reduce_sum(student.layers[-1].kernel ** 2))
    logs = distiller.train_step(next(iter(batches())))
    assert float(logs["loss"]) == pytest.approx(float(logs["cross_entropy"]) + penalty, rel=1e-5)


class Hint(Method):
    """A method with a head: regress the teacher's hidden layer, and count the steps."""

    name, terms = "hint", ("hint", "epoch")
    teacher_taps, student_taps = {"theirs": "hidden"}, {"ours": "hidden"}

    def make_heads(self, student, sizes):
        (width,) = sizes.teacher["theirs"]
        counter = layers.Dense(1, use_bias=False, kernel_initializer="zeros", trainable=False)
        counter.build((None, 1))
        return {"regressor": keras.Sequential([keras.Input((8,)), layers.Dense(width)]), "counter": counter}

    def loss(self, batch, outputs, heads):
        gap = heads["regressor"](outputs["ours"]) - batch["teacher"]["theirs"]
        hint = tf.reduce_mean(gap**2) + 0.0 * tf.reduce_sum(outputs["logits"])
        return hint, {"hint": hint, "epoch": tf.cast(batch["epoch"], tf.float32)}

    def held_out_loss(self, batch, outputs, heads):
        return tf.constant(7.0), {}

    def after_step(self, batch, outputs, student, heads):
        heads["counter"].kernel.assign_add([[1.0]])


@pytest.mark.parametrize("options", [{}, {"jit_compile": True, "steps_per_execution": 3}])
def test_a_methods_heads_are_trained_with_the_student_but_are_no_part_of_it(options):
    teacher, student = network(1, width=5), network(2)
    distiller = compiled(student, teacher, Hint(), **options)
    before = weights_of(distiller.heads["regressor"])
    data = batches(n=24, repeat=2).enumerate().map(lambda i, b: b | {"epoch": i // 3})
    history = fit(distiller, data, epochs=2, steps_per_epoch=3).history
    assert not same(before, weights_of(distiller.heads["regressor"]))
    assert history["loss"][1] < history["loss"][0] and history["epoch"] == [0.0, 1.0]
    assert len(student.trainable_variables) == 4 and len(distiller.trainable_variables) == 6


@pytest.mark.parametrize("options", [{}, {"jit_compile": True, "steps_per_execution": 3}])
def test_a_method_acts_after_each_step_and_has_a_loss_of_its_own_for_held_out_images(options):
    distiller = compiled(network(2), network(1, width=5), Hint(), **options)
    data = batches(n=24, repeat=2).map(lambda b: b | {"epoch": 0})
    history = fit(distiller, data, epochs=2, steps_per_epoch=3, validation_data=data.take(2)).history
    assert float(distiller.heads["counter"].kernel[0, 0]) == 6 and history["val_loss"] == [7.0, 7.0]


def test_only_the_variables_the_method_names_are_trained():
    class OnlyHidden(Scratch):
        def trained_variables(self, student, heads):
            return student.get_layer("hidden").trainable_variables

    student = network(2)
    before = weights_of(student)
    fit(compiled(student, None, OnlyHidden()), batches())
    assert [np.array_equal(a, b) for a, b in zip(before, weights_of(student), strict=True)] == [0, 0, 1, 1]
