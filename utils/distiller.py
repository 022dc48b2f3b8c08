"""The Distiller: a Keras model that trains a student under any method, with cached or live teacher signals."""

from itertools import groupby, islice

import keras
import tensorflow as tf

from utils.methods.base import Sizes


def _tapped(model: keras.Model, taps: dict[str, str]) -> dict:
    """Symbolic outputs of a functional model: its logits and the layers {name: layer} that are asked for."""
    known = [layer.name for layer in model.layers]
    missing = sorted(set(taps.values()) - set(known))
    if missing:
        raise ValueError(f"{model.name} has no layer named {missing}; its layers are {known}.")
    return {"logits": model.outputs[0]} | {name: model.get_layer(layer).output for name, layer in taps.items()}


def with_taps(model: keras.Model, taps: dict[str, str]):
    """A function (images, training) -> {"logits": [B, C], name: [B, ...]} that runs `model` once."""
    if not taps:
        return lambda images, training: {"logits": model(images, training=training)}
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs  # or Keras would want a list
    tapped = keras.Model(inputs, _tapped(model, taps))
    return lambda images, training: tapped(images, training=training)


def signal_shapes(model: keras.Model, taps: dict[str, str]) -> dict[str, tuple]:
    """Shape of what `with_taps` gives for one image: {"logits": (C,), name: (...)}."""
    if not taps:
        return {"logits": tuple(model.output_shape[1:])}
    return {name: tuple(output.shape[1:]) for name, output in _tapped(model, taps).items()}


class TrainingFailed(RuntimeError):
    """A training run whose loss or result is not finite: never a result."""


class StopOnFailure(keras.callbacks.Callback):
    """Ends training at the first loss that is not finite. The Distiller notes the step."""

    def on_train_batch_end(self, batch, logs=None):
        failed_at = int(self.model.failed_at)
        if failed_at >= 0:
            raise TrainingFailed(
                f"The loss was no longer finite at step {failed_at} (counted from 0). Training stopped there. "
                "Lower the learning rate, or look at the inputs of the loss."
            )


class OptimizerFirst(keras.callbacks.Callback):
    """Makes the optimizer's variables before the first step is traced: TensorFlow traces a step twice if it makes any.

    A callback of each run, and no part of the Distiller, since a recorded run belongs to the code that trained it.
    """

    def on_train_begin(self, logs=None):
        distiller = self.model
        distiller.optimizer.build(distiller.method.trained_variables(distiller.student, distiller.heads))


class Distiller(keras.Model):
    """Trains `student` under `method`; `teacher` may be None where batches carry its signals.

    Batches are dicts: "image" float [B, H, W, C], "label" int [B], "index" int [B], "epoch" int [] and, if
    cached, "teacher": {"logits": [B, C], tap: [B, ...]}. Without "teacher", the live teacher is asked: in
    inference mode, outside the tape. What is trained are the student's variables and those of the
    method's heads; the teacher is not part of this model. `sizes` is what those heads may depend on; it is read
    from the live teacher where it isn't given.

    It differs from other Keras models in this: `fit` and `evaluate` take such dicts only, as a dataset or as one dict
    of arrays; what is measured is the method's terms and the accuracy, so that `compile(metrics=…)` adds nothing, and
    there are no class weights; and a checkpoint holds weights (`ModelCheckpoint(…, save_weights_only=True)`), since a
    live teacher and a method do not go into a file. `distiller.student.save(…)` keeps the student as a whole.

    With `jit_compile=True`, `steps_per_execution` batches are trained in one XLA call. The live
    teacher stays outside of it, since XLA's convolutions are slow on CPUs.
    """

    def __init__(self, student: keras.Model, teacher: keras.Model | None, method, sizes: Sizes | None = None):
        super().__init__(name="distiller")
        if not student.built:
            raise ValueError(
                f"The student {student.name!r} has no weights yet. Call it on a batch, or give it an Input."
            )
        self.student = student
        self.method = method
        if sizes is None:
            sizes = Sizes(teacher=signal_shapes(teacher, method.teacher_taps) if teacher is not None else {})
        self.heads = method.make_heads(student, sizes)
        # Held in a function, not as an attribute: Keras would track the teacher as a layer of this model,
        # and count, train, save and load its weights with the student's.
        self._teacher = lambda: teacher
        self._teacher_outputs = with_taps(teacher, method.teacher_taps) if teacher is not None else None
        self._student_outputs = with_taps(student, method.student_taps)
        self.trackers = {name: keras.metrics.Mean(name=name) for name in ("loss", *method.terms, "accuracy")}
        # The first optimizer step whose loss was not finite; -1 while there is none.
        self.failed_at = keras.Variable(-1, dtype="int64", trainable=False, name="failed_at")
        self.built = True

    @property
    def teacher(self):
        return self._teacher()

    @property
    def metrics(self):
        return list(self.trackers.values())

    def fit(self, *args, callbacks=None, **kwargs):
        """Keras's `fit`, stopped by a TrainingFailed that names the step if the loss turns NaN or infinite."""
        self.failed_at.assign(-1)
        return super().fit(*args, callbacks=[StopOnFailure(), *(callbacks or [])], **kwargs)

    def call(self, images, training=None):
        return self.student(images, training=training)

    def with_teacher_signals(self, batch: dict) -> dict:
        """The batch with "teacher" in it: as it came, or from the live teacher in inference mode."""
        if not self.method.needs_teacher or "teacher" in batch:
            return batch
        if self._teacher_outputs is None:
            raise ValueError(
                f"The method {self.method.name!r} needs the teacher's signals, but the batch carries none under "
                "'teacher' and the Distiller was made without a live teacher. Give it one of the two."
            )
        signals = self._teacher_outputs(batch["image"], training=False)
        return batch | {"teacher": tf.nest.map_structure(tf.stop_gradient, signals)}

    def student_step(self, batch: dict) -> None:
        """One optimizer step on a batch that has its teacher signals."""
        variables = self.method.trained_variables(self.student, self.heads)
        with tf.GradientTape() as tape:
            outputs = self._student_outputs(batch["image"], training=True)
            total, terms = self._with_penalties(self.method.loss(batch, outputs, self.heads))
            scaled = self.optimizer.scale_loss(total)
        step = tf.cast(self.optimizer.iterations, tf.int64)
        first_failure = (self.failed_at < 0) & ~tf.math.is_finite(total)
        self.failed_at.assign(tf.where(first_failure, step, self.failed_at))
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        self.method.after_step(batch, outputs, self.student, self.heads)
        self._track(batch, outputs, total, terms)

    def train_step(self, batch):
        self.student_step(self.with_teacher_signals(batch))
        return self.get_metrics_result()

    def test_step(self, batch):
        batch = self.with_teacher_signals(batch)
        outputs = self._student_outputs(batch["image"], training=False)
        total, terms = self._with_penalties(self.method.held_out_loss(batch, outputs, self.heads))
        self._track(batch, outputs, total, terms)
        return self.get_metrics_result()

    def predict_step(self, batch):
        return self(batch["image"] if isinstance(batch, dict) else batch, training=False)

    def _with_penalties(self, loss):
        total, terms = loss
        if self.student.losses:  # weight decay and the like, if the student has any
            total += tf.add_n(self.student.losses)
        return total, terms

    def _track(self, batch, outputs, total, terms) -> None:
        """Weighs by batch size, so that the epoch's figures are means over images, last batch included."""
        size = tf.shape(batch["label"])[0]
        predicted = tf.argmax(outputs["logits"], axis=-1, output_type=batch["label"].dtype)
        hits = tf.reduce_mean(tf.cast(predicted == batch["label"], tf.float32))
        for name, value in {"loss": total, **terms, "accuracy": hits}.items():
            self.trackers[name].update_state(value, sample_weight=size)

    def make_train_function(self, force=False):
        if not self.jit_compile or self.run_eagerly or self.distribute_strategy.num_replicas_in_sync > 1:
            return super().make_train_function(force)
        if self.train_function is None or force:
            self.train_function = self._make_block_function()
        return self.train_function

    def _make_block_function(self):
        """A train function that runs `steps_per_execution` student steps inside one XLA call.

        Keras's own loop calls a compiled step once for each batch; a loop inside the compiled function
        saves the calls between, and leaves the processors to XLA for the length of the block.
        """
        self.optimizer.build(self.method.trained_variables(self.student, self.heads))
        ask_live_teacher = tf.function(self.with_teacher_signals, reduce_retracing=True)

        def with_signals(batch):
            return batch if "teacher" in batch or not self.method.needs_teacher else ask_live_teacher(batch)

        @tf.function(jit_compile=True)
        def run_block(stacked, count):
            def go_on(i):
                return (i < count) & (self.failed_at < 0)

            def body(i):
                self.student_step(tf.nest.map_structure(lambda t: t[i], stacked))
                return (i + 1,)

            tf.while_loop(go_on, body, (0,))
            return self.get_metrics_result()

        def train_function(iterator):
            batches = [with_signals(batch) for batch in islice(iterator, self.steps_per_execution)]
            if not batches:
                raise StopIteration
            full = max(len(batch["label"]) for batch in batches)
            for size, group in groupby(batches, key=lambda batch: len(batch["label"])):
                group = list(group)
                # Short blocks are filled up to the one length that is compiled; `count` says where they end.
                filler = [group[-1]] * (self.steps_per_execution - len(group)) if size == full else []
                stacked = tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *group, *filler)
                logs = run_block(stacked, tf.constant(len(group)))
            return logs

        return train_function
