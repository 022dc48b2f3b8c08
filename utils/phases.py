"""Training in two phases: the head on a frozen base, then the whole network at a tenth of the rate.

While the base is frozen, what it says of a picture never changes: its features are computed once for each view and
shared by every run over the same base, and only the head is trained. In fine-tuning the teacher's signals are cached
for each view. Tracing a large network takes longer than a short run of it, so that each is traced once and used by run
after run; the weights, the optimizer and the dropout are set back in between.
"""

import time
from dataclasses import dataclass, replace
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from sklearn.metrics import roc_auc_score

from utils import signals
from utils.binary import positive_scores
from utils.data import pipeline
from utils.data.views import CPU, ORDER, seed_of
from utils.distiller import Distiller
from utils.fitting import Adam
from utils.methods import KD, Method, Scratch, Sizes

FINE_TUNING = 0.1  # of the rate: the assignment's first hint


@dataclass(frozen=True)
class Schedule:
    """Table 1 of the assignment; `views` is how many views each image has, which then come again."""

    initial_epochs: int = 10
    fine_tune_epochs: int = 25
    batch_size: int = 32
    views: int = 10

    def stopped_after(self, epochs: int | None) -> "Schedule":
        """The same, ended after so many epochs of both phases together; with None, or more than it has, as it is."""
        if epochs is None:
            return self
        frozen = min(epochs, self.initial_epochs)
        return replace(self, initial_epochs=frozen, fine_tune_epochs=min(epochs - frozen, self.fine_tune_epochs))


@dataclass(frozen=True)
class Steered(Method):
    """KD with the alpha and temperature that come with each batch: one traced step serves a whole sweep.

    alpha = 0 is the student alone, whatever the teacher's logits say; log-shares of votes in their place, with alpha =
    temperature = 1, make the votes soft labels.
    """

    name = "steered"
    terms = ("cross_entropy", "distillation")

    def loss(self, batch, outputs, heads):
        alpha, t = batch["alpha"], batch["temperature"]
        own = tf.nn.log_softmax(outputs["logits"])
        cross_entropy = -tf.reduce_mean(tf.gather(own, batch["label"], batch_dims=1))
        log_p = tf.nn.log_softmax(tf.stop_gradient(batch["teacher"]["logits"]) / t)
        log_q = tf.nn.log_softmax(outputs["logits"] / t)
        soft = t**2 * tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1))
        return (1 - alpha) * cross_entropy + alpha * soft, {"cross_entropy": cross_entropy, "distillation": soft}


def steering(method: Method) -> tuple[Method, dict]:
    """What is traced for a method, and what its batches carry beside: KD and the student alone share one step."""
    if type(method) is Scratch:
        return Steered(), {"alpha": 0.0, "temperature": 1.0}
    if type(method).loss is KD.loss:  # KD's own, and methods that only find it another teacher
        return Steered(), {"alpha": method.alpha, "temperature": method.temperature}
    return method, {}


def head_of(model: keras.Model) -> keras.Model:
    """What follows the pooled features in a network of Task 2, [B, F] -> logits, in layers of its own of equal names.

    Shared layers would be in two graphs, and what Keras calls the output of such a layer is that of the first.
    """
    names = [layer.name for layer in model.layers]
    pooled = keras.Input(model.get_layer("pool").output.shape[1:], name="pool")
    made = {model.get_layer("pool").output: pooled}
    for layer in model.layers[names.index("pool") + 1 :]:
        given = tree.map_structure(made.get, layer.input)
        made[layer.output] = type(layer).from_config(layer.get_config())(given)
    head = keras.Model(pooled, made[model.outputs[0]], name=f"{model.name}_head")
    _copy_weights(model, head, head)
    return head


def _copy_weights(source: keras.Model, target: keras.Model, head: keras.Model) -> None:
    """Those of the head's layers, from one model that has them to another."""
    for layer in head.layers[1:]:
        target.get_layer(layer.name).set_weights(source.get_layer(layer.name).get_weights())


def base_of(model: keras.Model) -> keras.Model:
    """What comes before: images -> pooled features [B, F], in inference mode."""
    return traced_once(keras.Model(model.inputs[0], model.get_layer("pool").output, name=f"{model.name}_base"))


class TracedOnce(keras.layers.Layer):
    """A model as a layer that only answers, images [B, H, W, 3] in [0, 1] -> [B, F], through a graph of its own."""

    def __init__(self, model: keras.Model):
        super().__init__(name="traced_once")
        self.model = model
        images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
        self.answer = tf.function(lambda x: model(x, training=False), [images])

    def call(self, images):
        return self.answer(images)


def traced_once(model: keras.Model) -> keras.Model:
    """A model that answers as this one does in inference mode, with the same weights in the same order.

    Who asks a model makes a graph of it each time. Here that graph is one call of a graph that exists: a network of
    hundreds of layers, asked for its views, for validation and for test, seed after seed, is traced once.
    """
    images = keras.Input(model.input_shape[1:], name="image")
    return keras.Model(images, TracedOnce(model)(images), name=model.name)


class Network:
    """A network of one make with its two training steps, each traced once."""

    def __init__(self, build_model, method: Method, classes: int, size: int, sizes: Sizes):
        self.model = method.make_student(partial(build_model, size=size), classes)
        self.base, self.head = base_of(self.model), head_of(self.model)
        self.frozen, self.whole = (Distiller(part, None, method, sizes) for part in (self.head, self.model))
        for distiller in (self.frozen, self.whole):
            distiller.compile(Adam(1e-3), jit_compile=False)
        images = tf.TensorSpec((None, size, size, 3), tf.uint8)
        features = tf.TensorSpec((None, *self.base.output_shape[1:]), tf.float32)
        self.answer = tf.function(lambda x: self.model(pipeline.to_float(x), training=False), [images])
        self.answer_features = tf.function(lambda x: self.head(x, training=False), [features])

    def start(self, weights: list[np.ndarray], seed: int) -> None:
        """As after being built with this seed: weights, dropout and optimizers."""
        self.model.set_weights(weights)
        _copy_weights(self.model, self.head, self.head)
        for layer in (*self.model.layers, *self.head.layers):
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign([seed, 0])
        for distiller in (self.frozen, self.whole):
            for variable in distiller.optimizer.variables:
                variable.assign(tf.zeros_like(variable))

    def fit(self, phase: str, batches, *, rate: float, epochs: int, steps: int, callbacks) -> dict:
        """Trains the head on batches of features ("frozen"), or all of it on images ("whole"); the history."""
        distiller = {"frozen": self.frozen, "whole": self.whole}[phase]
        distiller.optimizer.learning_rate.assign(rate)
        done = distiller.fit(
            batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, callbacks=callbacks, verbose=0
        )
        if phase == "frozen":
            _copy_weights(self.head, self.model, self.head)
        return done.history

    def logits(self, images: np.ndarray) -> np.ndarray:
        """[n, C] of uint8 images, in inference mode."""
        return _in_parts(self.answer, images)

    def logits_of_features(self, features: np.ndarray) -> np.ndarray:
        return _in_parts(self.answer_features, features)


class OwnNetwork(Network):
    """The same for one run of a method with heads of its own: they are drawn by the run's seed, and begin the second
    phase with what they learned in the first."""

    def __init__(self, *given, seed: int):
        keras.utils.set_random_seed(seed)
        super().__init__(*given)

    def fit(self, phase: str, *given, **options) -> dict:
        history = super().fit(phase, *given, **options)
        if phase == "frozen":
            for name, head in self.frozen.heads.items():
                self.whole.heads[name].set_weights(head.get_weights())
        return history


def _in_parts(answer, inputs: np.ndarray, size: int = signals.BATCH) -> np.ndarray:
    return np.concatenate([answer(tf.constant(inputs[i : i + size])) for i in range(0, len(inputs), size)])


def feature_batches(features, split, *, batch_size: int, seed: int, epochs: int, said: dict) -> tf.data.Dataset:
    """Batches for the frozen phase, like those of `pipeline.batches` in order and content, with features for images.

    features [views, n, F] and each array of `said` [views, n, ...] are read view by view.
    """
    n, views = len(split), len(features)
    arrays = {"image": features} | {f"teacher/{name}": array for name, array in said.items()}
    with tf.device(CPU):
        labels = tf.constant(split.labels)
        finer = None if split.subclasses is None else tf.constant(split.subclasses)

    def one_epoch(epoch):
        order = tf.random.experimental.stateless_shuffle(tf.range(n, dtype=tf.int64), seed_of(seed, epoch, ORDER))
        shown = {}
        for name, array in arrays.items():
            shown[name] = tf.numpy_function(lambda e, a=array: np.ascontiguousarray(a[e % len(a)]), [epoch], tf.float32)
            shown[name].set_shape(array.shape[1:])

        def one_batch(step):
            index = order[step * batch_size : (step + 1) * batch_size]
            batch = {"image": tf.gather(shown["image"], index), "label": tf.gather(labels, index), "index": index}
            if finer is not None:
                batch["subclass"] = tf.gather(finer, index)
            signals_of = {name: tf.gather(shown[f"teacher/{name}"], index) for name in said}
            return batch | {"epoch": epoch, "teacher": signals_of}

        return tf.data.Dataset.range(pipeline.steps(n, batch_size)).map(one_batch)

    assert views  # an empty array would be read modulo 0
    return tf.data.Dataset.range(epochs).flat_map(one_epoch).prefetch(2)


class AfterEpoch(keras.callbacks.Callback):
    """Notes the validation AUC after each epoch."""

    def __init__(self, logits, labels, found: list):
        super().__init__()
        self.logits, self.labels, self.found = logits, labels, found

    def on_epoch_end(self, epoch, logs=None):
        self.found.append(float(roc_auc_score(self.labels, positive_scores(self.logits()))))


def _signals(teacher, method, split, *, view, seed, views, folder, classes) -> dict[str, np.ndarray]:
    """What the teacher says of the views of a split; zeros for a student without one, which a weight of 0 ignores."""
    if teacher is None:
        return {"logits": np.zeros((1, len(split), classes), np.float32)}
    if isinstance(teacher, np.ndarray):
        return {"logits": teacher[None].astype(np.float32)}
    return signals.teacher_signals(
        teacher, split, folder=folder, taps=method.teacher_taps, view=view, seed=seed, epochs=views
    )


def train_earlier(
    network: Network, stages, weights, data, teacher, *, seed, schedule, rate, view, folder, callbacks
) -> tuple[list[np.ndarray], list[dict], float]:
    """The stages [(method, epochs)] that come before the two phases, from `weights`: on images, with what each trains
    of the network free, at the rate of fine-tuning. The weights that the phases then begin with, histories, seconds."""
    split, histories, seconds = data.train, [], 0.0
    steps = pipeline.steps(len(split), schedule.batch_size)
    network.start(weights, seed)
    keras.utils.set_random_seed(seed)  # of the heads: the state it has here depends on the runs before
    for method, epochs in stages:
        views = min(schedule.views, epochs)
        said = _signals(
            teacher, method, split, view=view, seed=seed, views=views, folder=folder, classes=data.num_classes
        )
        shown = {name: np.broadcast_to(a, (views, *a.shape[1:])) for name, a in said.items()}
        shapes = {name: array.shape[2:] for name, array in said.items()}
        distiller = Distiller(network.model, None, method, Sizes(images=len(split), teacher=shapes))
        distiller.compile(Adam(FINE_TUNING * rate), jit_compile=False)
        batches = pipeline.batches(
            split, batch_size=schedule.batch_size, seed=seed, epochs=epochs, view=view, views=views, signals=shown
        )
        began = time.perf_counter()
        done = distiller.fit(
            batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, callbacks=callbacks, verbose=0
        )
        seconds += time.perf_counter() - began
        histories.append(done.history)
    return network.model.get_weights(), histories, seconds


def train_in_phases(
    network: Network, weights, data, teacher, *, steered, seed, schedule, rate, view, folder, callbacks
) -> dict:
    """One run without its bookkeeping: trains `network` in place from `weights`; histories and seconds."""
    split, n = data.train, len(data.train)
    steps, views = pipeline.steps(n, schedule.batch_size), schedule.views
    method = network.whole.method
    said = _signals(teacher, method, split, view=view, seed=seed, views=views, folder=folder, classes=data.num_classes)
    network.start(weights, seed)
    features = signals.teacher_signals(network.base, split, folder=folder, view=view, seed=seed, epochs=views)["logits"]
    held_out = signals.teacher_signals(network.base, data.validation, folder=folder)["logits"][0]
    aucs, labels = [], data.validation.labels
    began = time.perf_counter()

    def steer(batch):
        return batch | {name: tf.constant(value) for name, value in steered.items()}

    frozen = network.fit(
        "frozen",
        feature_batches(
            features, split, batch_size=schedule.batch_size, seed=seed, epochs=schedule.initial_epochs, said=said
        ).map(steer),
        rate=rate, epochs=schedule.initial_epochs, steps=steps,
        callbacks=[*callbacks, AfterEpoch(lambda: network.logits_of_features(held_out), labels, aucs)],
    )  # fmt: skip
    whole = {}
    if schedule.fine_tune_epochs:
        shown = {name: np.broadcast_to(a, (views, *a.shape[1:])) for name, a in said.items()}
        batches = pipeline.batches(
            split, batch_size=schedule.batch_size, seed=seed, epochs=schedule.fine_tune_epochs,
            first_epoch=schedule.initial_epochs, view=view, views=views, signals=shown,
        )  # fmt: skip
        whole = network.fit(
            "whole", batches.map(steer), rate=FINE_TUNING * rate, epochs=schedule.fine_tune_epochs, steps=steps,
            callbacks=[*callbacks, AfterEpoch(lambda: network.logits(data.validation.images), labels, aucs)],
        )  # fmt: skip
    return {
        "history": {"frozen": frozen, "whole": whole},
        "validation_auc": aucs,
        "training_seconds": time.perf_counter() - began,
    }
