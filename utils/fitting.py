"""One training run: the teacher is asked, the student fitted stage by stage, and measured. Nothing is recorded here."""

import time

import keras
import numpy as np
import tensorflow as tf

from utils import metrics, signals
from utils.data import Dataset, pipeline
from utils.distiller import Distiller, TrainingFailed
from utils.methods import Sizes

# Below so many steps, compiling with XLA takes longer than it saves.
WORTH_COMPILING = 500

# So many training images tell the accuracy on them well enough; a teacher takes long to answer for all.
TRAINING_SAMPLE = 10_000

# Added to the seed where the teacher is to see views of its own.
OTHER_VIEWS = 1000


def block_length(steps: int, longest: int = 64) -> int:
    """Largest divisor of the steps of an epoch up to `longest`, so that no block reaches into the next epoch."""
    return max(length for length in range(1, min(steps, longest) + 1) if steps % length == 0)


def compile_with_xla(model: keras.Model, steps: int) -> bool:
    """Whether XLA pays: always on a GPU; on a CPU for long runs without convolutions.

    XLA's convolution gradients on CPUs run at about a tenth of the speed of TensorFlow's own.
    """
    if tf.config.list_physical_devices("GPU"):
        return True
    convolutions = [layer for layer in model.layers if "Conv" in type(layer).__name__]
    return not convolutions and steps >= WORTH_COMPILING


class Adam(keras.optimizers.Adam):
    """Keras's Adam for a single device.

    Keras sums the gradients over replicas, even over one, through a function whose gradient TensorFlow registers for
    the life of the process, and with it the graph, the weights and the moments of every model that was ever trained.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars):
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return super()._all_reduce_sum_gradients(grads_and_vars)
        return grads_and_vars


def learning_rates(rate: float, schedule: str, steps: int):
    """What Adam is given: the rate itself, or its cosine decay to 0 over all steps."""
    return rate if schedule == "constant" else keras.optimizers.schedules.CosineDecay(rate, steps)


def fit_distiller(
    student,
    method,
    train,
    *,
    teacher_signals,
    validation,
    seed,
    epochs,
    batch_size,
    learning_rate,
    schedule,
    view,
    views,
    callbacks,
) -> list[dict]:
    """Trains `student` in place with Adam, stage by stage. Returns the history of each stage,
    {name: [one value for each epoch]}."""
    steps = pipeline.steps(len(train), batch_size)
    shapes = {name: array.shape[2:] for name, array in (teacher_signals or {}).items()}
    histories = []
    for stage, length in method.stages(epochs):
        compiled = compile_with_xla(student, steps * length)
        distiller = Distiller(student, None, stage, Sizes(images=len(train), teacher=shapes))
        distiller.compile(
            optimizer=Adam(learning_rates(learning_rate, schedule, steps * length)),
            jit_compile=compiled,
            steps_per_execution=block_length(steps) if compiled else 1,
        )
        # Each stage counts its epochs, and so its views, from 0.
        shown = min(views or length, length)
        said = {name: a[:shown] if len(a) > 1 else a for name, a in (teacher_signals or {}).items()}
        batches = pipeline.batches(
            train, batch_size=batch_size, seed=seed, epochs=length, view=view, views=shown, signals=said
        )
        history = distiller.fit(
            batches,
            epochs=length,
            steps_per_epoch=steps,
            shuffle=False,  # the pipeline shuffles
            validation_data=validation,
            callbacks=callbacks,
            verbose=0,
        )
        histories.append(history.history)
    return histories


def splits(data: Dataset, purpose: str):
    """What is trained on and what is evaluated on. Only "report" reads the test split."""
    return (data.train, data.validation) if purpose == "choose" else (data.all_train, data.test)


def _ask(teacher, split, **options) -> dict[str, np.ndarray]:
    """Signals of a teacher, or of a tuple of them."""
    if not isinstance(teacher, tuple):
        return signals.teacher_signals(teacher, split, **options)
    options.pop("taps")
    return signals.joint_signals(teacher, split, **options)


def _training_signals(teacher, method, split, *, view, seed, views, folder) -> dict[str, np.ndarray]:
    """What the teacher says of the training images, in the views that the method wants it to see."""
    seen = {"same": (view, seed), "clean": (None, seed), "other": (view, seed + OTHER_VIEWS)}
    view_seen, seed_seen = seen[method.teacher_sees]
    options = {"view": view_seen, "seed": seed_seen, "epochs": views, "folder": folder}
    said = _ask(teacher, split, taps=method.teacher_taps, **options)
    views = views if view is not None else 1
    return {name: np.broadcast_to(array, (views, *array.shape[1:])) for name, array in said.items()}


def measure(model, data, purpose, histories, seconds, teacher_logits=None) -> dict:
    """What a run's record says of a trained model; teacher_logits are those of the held-out images, [n, C]."""
    train_split, held_out = splits(data, purpose)
    logits = signals.predict_logits(model, held_out.images)
    if not np.isfinite(logits).all():
        raise TrainingFailed("The last step left weights whose answers are not finite. Lower the learning rate.")
    measured = metrics.classification_summary(held_out.labels, logits)
    if teacher_logits is not None:
        measured |= metrics.teacher_agreement(teacher_logits, logits)
    on_train = np.argmax(signals.predict_logits(model, train_split.images[:TRAINING_SAMPLE]), axis=-1)
    *earlier, history = histories
    epochs = sum(len(stage["loss"]) for stage in histories)
    return {
        "evaluated_on": "validation" if purpose == "choose" else "test",
        "metrics": measured,
        "training_accuracy": float(np.mean(on_train == train_split.labels[:TRAINING_SAMPLE])),
        "history": history,
        "earlier_stages": earlier,
        "training_seconds": seconds,
        "images_per_second": epochs * len(train_split) / seconds,
    }


def train_once(
    build_model,
    method,
    data,
    teacher,
    *,
    purpose,
    seed,
    epochs,
    batch_size,
    learning_rate,
    schedule,
    view,
    views,
    signal_folder,
    callbacks,
) -> tuple[keras.Model, dict]:
    """One run without its bookkeeping: the trained model, and what was measured. The arguments are those of
    `train_and_evaluate`; `teacher` is a model, a tuple of models or None."""
    train_split, held_out = splits(data, purpose)
    train_signals = held_out_signals = validation = None
    if teacher is not None:
        held_out_signals = _ask(teacher, held_out, taps=method.teacher_taps, folder=signal_folder)
    if method.needs_teacher:
        train_signals = _training_signals(
            teacher, method, train_split, view=view, seed=seed, views=min(views or epochs, epochs), folder=signal_folder
        )
    if purpose == "choose":
        # As of the last epoch, for losses that change on the way.
        validation = pipeline.batches(
            held_out, batch_size=500, shuffle=False, first_epoch=epochs - 1,
            signals=held_out_signals if method.needs_teacher else None,
        )  # fmt: skip
    keras.utils.set_random_seed(seed)
    model = method.make_student(build_model, data.num_classes)
    began = time.perf_counter()
    histories = fit_distiller(
        model,
        method,
        train_split,
        teacher_signals=train_signals,
        validation=validation,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        view=view,
        views=views,
        callbacks=callbacks,
    )
    seconds = time.perf_counter() - began
    teacher_logits = None if teacher is None else held_out_signals["logits"][0]
    return model, measure(model, data, purpose, histories, seconds, teacher_logits)
