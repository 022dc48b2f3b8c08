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
from utils.methods import KD, Method
from utils.progress import ProgressBar
from utils.settings import settings

PURPOSES = ("choose", "report")

# Below so many steps, compiling with XLA takes longer than it saves.
WORTH_COMPILING = 500


@dataclass(frozen=True)
class Run:
    """A finished run: its record, and a way to its weights."""

    record: dict
    weights: Path
    build_model: Callable[[], keras.Model]
    retrain: Callable[[], "Run"]

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
        model = self.build_model()
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


def fit_distiller(
    student, method, train, *, teacher_signals, validation, seed, epochs, batch_size, learning_rate, view, callbacks
) -> dict:
    """Trains `student` in place: Adam at a constant rate. Returns the history, {name: [one value for each epoch]}."""
    steps = pipeline.steps(len(train), batch_size)
    compiled = compile_with_xla(student, steps * epochs)
    distiller = Distiller(student, None, method)
    distiller.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        jit_compile=compiled,
        steps_per_execution=block_length(steps) if compiled else 1,
    )
    batches = pipeline.batches(
        train, batch_size=batch_size, seed=seed, epochs=epochs, view=view, signals=teacher_signals
    )
    history = distiller.fit(
        batches,
        epochs=epochs,
        steps_per_epoch=steps,
        shuffle=False,  # the pipeline shuffles
        validation_data=validation,
        callbacks=callbacks,
        verbose=0,
    )
    return history.history


def _splits(data: Dataset, purpose: str):
    """What is trained on and what is evaluated on. Only "report" reads the test split."""
    return (data.train, data.validation) if purpose == "choose" else (data.all_train, data.test)


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
    view,
    signal_folder,
    callbacks,
) -> tuple[keras.Model, dict]:
    """One run without its bookkeeping: the trained model, and what was measured. The arguments are those of
    `train_and_evaluate`; `teacher` is a model or None."""
    train_split, held_out = _splits(data, purpose)
    given = {"folder": signal_folder}
    train_signals = held_out_signals = validation = None
    if teacher is not None:
        held_out_signals = signals.teacher_signals(teacher, held_out, taps=method.teacher_taps, **given)
    if method.needs_teacher:
        train_signals = signals.teacher_signals(
            teacher, train_split, taps=method.teacher_taps, view=view, seed=seed, epochs=epochs, **given
        )
    if purpose == "choose":
        validation = pipeline.batches(
            held_out, batch_size=500, shuffle=False, signals=held_out_signals if method.needs_teacher else None
        )
    keras.utils.set_random_seed(seed)
    model = build_model()
    began = time.perf_counter()
    history = fit_distiller(
        model,
        method,
        train_split,
        teacher_signals=train_signals,
        validation=validation,
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        view=view,
        callbacks=callbacks,
    )
    seconds = time.perf_counter() - began
    logits = signals.predict_logits(model, held_out.images)
    if not np.isfinite(logits).all():
        raise TrainingFailed("The last step left weights whose answers are not finite. Lower the learning rate.")
    measured = metrics.classification_summary(held_out.labels, logits)
    if held_out_signals is not None:
        measured |= metrics.teacher_agreement(held_out_signals["logits"][0], logits)
    return model, {
        "evaluated_on": "validation" if purpose == "choose" else "test",
        "metrics": measured,
        "training_accuracy": float(
            np.mean(np.argmax(signals.predict_logits(model, train_split.images), -1) == train_split.labels)
        ),
        "history": history,
        "training_seconds": seconds,
        "images_per_second": epochs * len(train_split) / seconds,
    }


def _teacher_name(teacher) -> str | None:
    """What tells one teacher from another in a configuration."""
    return teacher.key if isinstance(teacher, Run) else _teacher_weights(teacher)


def _teacher_weights(teacher) -> str | None:
    """Digest of the weights a teacher has now."""
    if teacher is None:
        return None
    return teacher.record["weights_digest"] if isinstance(teacher, Run) else signals.weights_digest(teacher)


def train_and_evaluate(
    build_model: Callable[[], keras.Model],
    method: Method,
    data: Dataset,
    *,
    teacher: "Run | keras.Model | None" = None,
    seed: int = 0,
    epochs: int = 12,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    view: pipeline.View | None = None,
    purpose: str = "report",
    task: str = "task1",
    title: str = "",
    runs: Path | None = None,
    cache: Path | None = None,
) -> Run:
    """Train a fresh model with a method, evaluate it, record it; or return the run that is already recorded.

    Args:
        build_model: makes the model. It is called right after the seed is set, so that all runs of one
            seed start from the same weights, whatever their method.
        method: the loss. `Scratch()` trains without a teacher, and trains the teachers themselves.
        teacher: a Run or a trained model, for methods that need one. It is asked once for each view of each
            image, outside training.
        view: augmentation, or None. Teacher and student see the same picture.
        purpose: "choose" trains on the train split and evaluates on validation, after every epoch and at the
            end; it never reads the test split. "report" trains on train and validation together, with the
            choices fixed, and reads the test split once, at the end.
        title: what the progress bar calls the run.
        runs, cache: folders of records and of weights and signals; those of the profile by default.

    Returns:
        The run. Its record has "metrics" on validation or test, with agreement with the teacher if there is one.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose is {purpose!r}; it can be one of {PURPOSES}.")
    if method.needs_teacher and teacher is None:
        raise ValueError(f"The method {method.name!r} needs a teacher. Pass a Run or a trained model as `teacher`.")
    runs = Path(runs or settings.runs)
    cache = Path(cache or settings.cache)
    options = {
        "seed": seed, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "view": view
    }  # fmt: skip
    config = {
        "task": task,
        "model": build_model.__name__,
        "method": method.name,
        "hyperparameters": {k: v for k, v in vars(method).items()},
        "teacher": _teacher_name(teacher),
        "purpose": purpose,
        "profile": settings.profile,
        "data": data.digest,
        **options,
        "view": repr(view) if view else None,
        "code": results.code_version(type(method), build_model, train_once, Dataset),
        "tensorflow": results.versions()["tensorflow"],
        "keras": results.versions()["keras"],
    }
    weights = cache / "weights" / f"{results.key_of(config)}.weights.h5"

    def train() -> Run:
        teacher_model = teacher.model() if isinstance(teacher, Run) else teacher
        content = {"profile": settings.profile, "source": data.source, "standin": data.standin}
        content["teacher_weights"] = _teacher_weights(teacher)
        bar = ProgressBar(title or f"{method.name} seed {seed}", epochs, len(_splits(data, purpose)[0]))
        try:
            model, measured = train_once(
                build_model, method, data, teacher_model, purpose=purpose, signal_folder=cache / "signals",
                callbacks=[bar], **options,
            )  # fmt: skip
        except TrainingFailed as failure:
            results.save_record(runs, config, content | {"status": "failed", "reason": str(failure)})
            raise
        _save_weights(model, weights)
        content |= {"status": "finished", **measured, "weights_digest": results.file_digest(weights)}
        results.save_record(runs, config, content)
        return Run(results.load_record(runs, config), weights, build_model, train)

    record = results.load_record(runs, config)
    # A teacher that had to be trained again, on another machine say, is another teacher if its weights differ.
    usable = record is not None and record["teacher_weights"] == _teacher_weights(teacher)
    return Run(record, weights, build_model, train) if usable else train()


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
