"""Training runs: one function trains, evaluates and records; the others call it for a question of the assignment."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from utils import metrics, results, signals
from utils.data import Dataset, pipeline
from utils.distiller import Distiller, TrainingFailed
from utils.methods import KD, Method, Sizes
from utils.progress import ProgressBar
from utils.settings import settings

PURPOSES = ("choose", "report")
SCHEDULES = ("constant", "cosine")

# So many training images tell the accuracy on them well enough; a teacher takes long to answer for all.
TRAINING_SAMPLE = 10_000

# Added to the seed where the teacher is to see views of its own.
OTHER_VIEWS = 1000

# Below so many steps, compiling with XLA takes longer than it saves.
WORTH_COMPILING = 500


@dataclass(frozen=True)
class Run:
    """A finished run: its record, and a way to its weights."""

    record: dict
    weights: Path
    build_model: Callable[..., keras.Model]  # the plain network, build_model(outputs=C)
    make_model: Callable[[], keras.Model]  # as the method trained and deploys it
    retrain: Callable[[], "Run"]
    teacher: "Run | keras.Model | tuple | None" = None  # whom it was distilled from

    @property
    def key(self) -> str:
        return results.key_of(self.record["config"])

    @property
    def accuracy(self) -> float:
        """Test accuracy of a reported run, validation accuracy of a run made to choose."""
        return self.record["metrics"]["accuracy"]

    def model(self) -> keras.Model:
        """The trained model. Weights that are gone or changed are made again, since a record alone has none."""
        if results.file_digest(self.weights) != self.record["weights_digest"]:
            before = self.record["metrics"]["accuracy"]
            self.record.update(self.retrain().record)
            print(
                f"The weights of {self.weights.name} were not in the cache, so that run was made again: "
                f"accuracy {before:.4f} as recorded, {self.accuracy:.4f} now."
            )
        model = self.make_model()
        model.load_weights(self.weights)
        return model


def compute_num_correct(model, images, labels):
    """How many of the images [B, H, W, C] the model, in inference mode, puts in the class of `labels` [B]: an int."""
    predicted = tf.argmax(model(images, training=False), axis=-1, output_type=tf.int32)
    return int(tf.reduce_sum(tf.cast(predicted == tf.cast(labels, tf.int32), tf.int32)))


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
            optimizer=keras.optimizers.Adam(learning_rates(learning_rate, schedule, steps * length)),
            jit_compile=compiled,
            steps_per_execution=block_length(steps) if compiled else 1,
        )
        # Each stage counts its epochs, and so its views, from 0.
        said = {name: a[:length] if len(a) > 1 else a for name, a in (teacher_signals or {}).items()}
        batches = pipeline.batches(train, batch_size=batch_size, seed=seed, epochs=length, view=view, signals=said)
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


def _splits(data: Dataset, purpose: str):
    """What is trained on and what is evaluated on. Only "report" reads the test split."""
    return (data.train, data.validation) if purpose == "choose" else (data.all_train, data.test)


def _ask(teacher, split, **options) -> dict[str, np.ndarray]:
    """Signals of a teacher, or of a tuple of them."""
    if not isinstance(teacher, tuple):
        return signals.teacher_signals(teacher, split, **options)
    options.pop("taps")
    return signals.joint_signals(teacher, split, **options)


def _training_signals(teacher, method, split, *, view, seed, epochs, folder) -> dict[str, np.ndarray]:
    """What the teacher says of the training images, in the views that the method wants it to see."""
    seen = {"same": (view, seed), "clean": (None, seed), "other": (view, seed + OTHER_VIEWS)}
    view_seen, seed_seen = seen[method.teacher_sees]
    options = {"view": view_seen, "seed": seed_seen, "epochs": epochs, "folder": folder}
    said = _ask(teacher, split, taps=method.teacher_taps, **options)
    views = epochs if view is not None else 1
    return {name: np.broadcast_to(array, (views, *array.shape[1:])) for name, array in said.items()}


def measure(model, data, purpose, histories, seconds, teacher_logits=None) -> dict:
    """What a run's record says of a trained model; teacher_logits are those of the held-out images, [n, C]."""
    train_split, held_out = _splits(data, purpose)
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
    signal_folder,
    callbacks,
) -> tuple[keras.Model, dict]:
    """One run without its bookkeeping: the trained model, and what was measured. The arguments are those of
    `train_and_evaluate`; `teacher` is a model, a tuple of models or None."""
    train_split, held_out = _splits(data, purpose)
    train_signals = held_out_signals = validation = None
    if teacher is not None:
        held_out_signals = _ask(teacher, held_out, taps=method.teacher_taps, folder=signal_folder)
    if method.needs_teacher:
        train_signals = _training_signals(
            teacher, method, train_split, view=view, seed=seed, epochs=epochs, folder=signal_folder
        )
    if purpose == "choose":
        validation = pipeline.batches(
            held_out, batch_size=500, shuffle=False, signals=held_out_signals if method.needs_teacher else None
        )
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
        callbacks=callbacks,
    )
    seconds = time.perf_counter() - began
    teacher_logits = None if teacher is None else held_out_signals["logits"][0]
    return model, measure(model, data, purpose, histories, seconds, teacher_logits)


def _described(value):
    """A hyperparameter as JSON can hold it: functions by their name, methods within methods as they print."""
    if callable(value):
        return value.__name__
    return repr(value) if isinstance(value, Method) else value


def _parts(method) -> list:
    """Code that a method got as a hyperparameter, and so cannot be seen in its class."""
    return [
        type(value) if isinstance(value, Method) else value
        for value in vars(method).values()
        if isinstance(value, Method) or callable(value)
    ]


def _teacher_name(teacher) -> str | None:
    """What tells one teacher from another in a configuration."""
    if isinstance(teacher, tuple):
        return "+".join(_teacher_name(member) for member in teacher)
    return teacher.key if isinstance(teacher, Run) else _teacher_weights(teacher)


def _teacher_weights(teacher) -> str | None:
    """Digest of the weights a teacher has now."""
    if teacher is None:
        return None
    if isinstance(teacher, tuple):
        return "+".join(_teacher_weights(member) for member in teacher)
    return teacher.record["weights_digest"] if isinstance(teacher, Run) else signals.weights_digest(teacher)


def _model_of(teacher):
    """The teacher's model, or a tuple of models."""
    if isinstance(teacher, tuple):
        return tuple(_model_of(member) for member in teacher)
    return teacher.model() if isinstance(teacher, Run) else teacher


class AfterEpochs(keras.callbacks.Callback):
    """Calls `act(epochs, model, history, seconds)` after each of some numbers of epochs."""

    def __init__(self, numbers, act):
        super().__init__()
        self.numbers, self.act, self.history = set(numbers), act, {}

    def on_train_begin(self, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        if epoch + 1 in self.numbers:
            history = {name: list(values) for name, values in self.history.items()}
            self.act(epoch + 1, self.model.student, history, time.perf_counter() - self.began)


def train_and_evaluate(
    build_model: Callable[..., keras.Model],
    method: Method,
    data: Dataset,
    *,
    teacher: "Run | keras.Model | tuple | None" = None,
    seed: int = 0,
    epochs: int = 12,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    schedule: str = "constant",
    view: pipeline.View | None = None,
    purpose: str = "report",
    also_after: tuple[int, ...] = (),
    task: str = "task1",
    title: str = "",
    runs: Path | None = None,
    cache: Path | None = None,
) -> Run:
    """Train a fresh model with a method, evaluate it, record it; or return the run that is already recorded.

    Args:
        build_model: makes the model, given the number of `outputs`. It is called right after the seed is set, so
            that all runs of one seed start from the same weights, whatever their method.
        method: the loss. `Scratch()` trains without a teacher, and trains the teachers themselves.
        teacher: a Run, a trained model, or a tuple of them for methods that want several. It is asked once for each
            view of each image, outside training. Some methods make another teacher from it first.
        schedule: "constant", or "cosine" for a rate that falls to 0.
        view: augmentation, or None. Teacher and student see the same picture.
        purpose: "choose" trains on the train split and evaluates on validation, after every epoch and at the
            end; it never reads the test split. "report" trains on train and validation together, with the
            choices fixed, and reads the test split once, at the end.
        also_after: numbers of epochs below `epochs` whose model is evaluated and recorded too. At a constant rate
            and without a teacher these are the runs of so many epochs, bit for bit, and are found as such.
        title: what the progress bar calls the run.
        runs, cache: folders of records and of weights and signals; those of the profile by default.

    Returns:
        The run. Its record has "metrics" on validation or test, with agreement with the teacher if there is one.
    """
    for name, value, known in (("purpose", purpose, PURPOSES), ("schedule", schedule, SCHEDULES)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; it can be one of {known}.")
    if also_after and (teacher is not None or schedule != "constant" or max(also_after) >= epochs):
        raise ValueError(
            f"also_after is {also_after}: it is for runs of more epochs than that, at a constant rate, without a "
            f"teacher; received epochs {epochs}, schedule {schedule!r}, teacher {_teacher_name(teacher)}."
        )
    if isinstance(teacher, tuple) and not getattr(method, "several_teachers", False):
        raise ValueError(f"The method {method.name!r} learns from one teacher, but received {len(teacher)}.")
    members = teacher if isinstance(teacher, tuple) else (teacher,)
    leaking = [m.key for m in members if isinstance(m, Run) and m.record["config"]["purpose"] != "choose"]
    if purpose == "choose" and leaking:
        raise ValueError(
            f"The teacher (run {leaking}) was trained on the validation images too, so nothing can be chosen on them "
            "with it. Train one with purpose='choose'."
        )
    if method.needs_teacher and teacher is None:
        raise ValueError(f"The method {method.name!r} needs a teacher. Pass a Run or a trained model as `teacher`.")
    runs = Path(runs or settings.runs)
    cache = Path(cache or settings.cache)
    folders = {"runs": runs, "cache": cache}
    shared = {
        "seed": seed, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "schedule": schedule
    }  # fmt: skip
    if method.needs_teacher:

        def train_other(build_model, method, teacher=None, **others):
            # A method's own teacher is trained as the given one was: its seed, epochs, batch size and rate.
            like = {name: given.record["config"][name] for name in shared} if isinstance(given, Run) else shared
            others = like | {"purpose": purpose, "task": task, **folders} | others
            return train_and_evaluate(build_model, method, data, teacher=teacher, **others)

        given = teacher

        teacher = method.prepare_teacher(train_other, teacher, build_model)
    options = shared | {"view": view}
    config = {
        "task": task,
        "model": build_model.__name__,
        "method": method.name,
        "hyperparameters": {name: _described(value) for name, value in vars(method).items()},
        "teacher": _teacher_name(teacher),
        "purpose": purpose,
        "profile": settings.profile,
        "data": data.digest,
        **options,
        "view": repr(view) if view else None,
        "code": results.code_version(type(method), *_parts(method), build_model, train_once, Dataset),
        "tensorflow": results.versions()["tensorflow"],
        "keras": results.versions()["keras"],
    }
    weights = _weights_path(cache, config)

    taught_by = teacher if method.needs_teacher else None  # `Scratch` is only compared with one

    def make_model():
        return method.make_student(build_model, data.num_classes)

    def train() -> Run:
        teacher_model = _model_of(teacher)
        content = {"profile": settings.profile, "source": data.source, "standin": data.standin}
        content["teacher_weights"] = _teacher_weights(teacher)

        def finish(config, model, measured):
            weights = _weights_path(cache, config)
            _save_weights(model, weights)
            whole = content | {"status": "finished", **measured, "weights_digest": results.file_digest(weights)}
            results.save_record(runs, config, whole)

        def finish_early(number, model, history, seconds):
            finish(config | {"epochs": number}, model, measure(model, data, purpose, [history], seconds))

        callbacks = [AfterEpochs(also_after, finish_early)] if also_after else []
        bar = ProgressBar(title or f"{method.name} seed {seed}", len(_splits(data, purpose)[0]))
        try:
            model, measured = train_once(
                build_model, method, data, teacher_model, purpose=purpose, signal_folder=cache / "signals",
                callbacks=[bar, *callbacks], **options,
            )  # fmt: skip
        except TrainingFailed as failure:
            results.save_record(runs, config, content | {"status": "failed", "reason": str(failure)})
            raise
        finish(config, model, measured)
        return Run(results.load_record(runs, config), weights, build_model, make_model, train, taught_by)

    record = results.load_record(runs, config)
    # A teacher that had to be trained again, on another machine say, is another teacher if its weights differ.
    usable = record is not None and record["teacher_weights"] == _teacher_weights(teacher)
    return Run(record, weights, build_model, make_model, train, taught_by) if usable else train()


def _weights_path(cache: Path, config: dict) -> Path:
    return cache / "weights" / f"{results.key_of(config)}.weights.h5"


def _save_weights(model: keras.Model, path: Path) -> None:
    """Weights under their final name only once they are whole: a record is written after them and trusts them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{os.getpid()}.tmp.weights.h5")
    try:
        model.save_weights(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temperature_sweep(
    build_model,
    data: Dataset,
    teachers: dict[int, Run],
    *,
    temperatures: Iterable[float],
    alpha: float = 0.5,
    **options,
) -> dict[float, list[Run]]:
    """KD at each temperature for each seed: {T: [run of each seed]}.

    Every run starts from the fresh weights of its seed. `teachers` maps the seed to its teacher; the
    teacher is asked once, and all temperatures read the same signals.
    """
    temperatures = list(temperatures)
    swept = {t: [] for t in temperatures}
    pairs = [(seed, t) for seed in teachers for t in temperatures]
    for number, (seed, t) in enumerate(pairs, 1):
        title = f"[run {number}/{len(pairs)}] kd T={t:g} alpha={alpha:g} seed {seed}"
        method = KD(alpha=alpha, temperature=float(t))
        swept[t].append(
            train_and_evaluate(build_model, method, data, teacher=teachers[seed], seed=seed, title=title, **options)
        )
    return swept


def grid_search(
    build_model,
    data: Dataset,
    teacher: Run,
    *,
    alphas: Iterable[float],
    temperatures: Iterable[float],
    seeds,
    **options,
) -> dict[tuple[float, float], list[Run]]:
    """KD at each (alpha, T) for each seed, on train and validation only: {(alpha, T): [run of each seed]}.

    One teacher, itself trained without the validation split, serves all runs.
    """
    grid = [(float(alpha), float(t)) for alpha in alphas for t in temperatures]
    found = {}
    for number, (alpha, t) in enumerate(grid, 1):
        found[alpha, t] = [
            train_and_evaluate(
                build_model,
                KD(alpha=alpha, temperature=t),
                data,
                teacher=teacher,
                seed=seed,
                purpose="choose",
                title=f"[setting {number}/{len(grid)}] kd T={t:g} alpha={alpha:g} seed {seed}",
                **options,
            )
            for seed in seeds
        ]
    return found


def values(runs: Iterable[Run], name: str = "accuracy") -> np.ndarray:
    """One metric of several runs, as an array in their order."""
    return np.array([run.record["metrics"][name] for run in runs])
