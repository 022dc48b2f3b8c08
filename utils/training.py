"""Training runs: one function trains, evaluates and records; the others call it for a question of the assignment."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from utils import results
from utils.data import Dataset, pipeline
from utils.distiller import OptimizerFirst, TrainingFailed
from utils.fitting import measure, splits, train_once
from utils.methods import KD, Method
from utils.methods.skd import refuse_in_vain
from utils.progress import ProgressBar
from utils.runs import (
    Run,
    code_parts,
    described,
    free_networks,
    helpers_of,
    model_of,
    save_weights,
    teacher_name,
    teacher_weights,
    weights_path,
)
from utils.settings import settings

PURPOSES = ("choose", "report")
SCHEDULES = ("constant", "cosine")


def compute_num_correct(model, images, labels):
    """How many of the images [B, H, W, C] the model, in inference mode, puts in the class of `labels` [B]: an int."""
    predicted = tf.argmax(model(images, training=False), axis=-1, output_type=tf.int32)
    return int(tf.reduce_sum(tf.cast(predicted == tf.cast(labels, tf.int32), tf.int32)))


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
    view: pipeline.View | pipeline.StainView | None = None,
    views: int | None = None,
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
        views: how many views each image has, which then come again; None for a new one in each epoch.
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
    if not isinstance(teacher, Run | keras.Model | tuple | None):
        raise ValueError(
            f"teacher is a {type(teacher).__name__}; it can be a Run, a trained model, or a tuple of them "
            "for methods that want several."
        )
    helpers = helpers_of(build_model)
    refuse_in_vain(method)
    if views is not None and views < 1:
        raise ValueError(f"views is {views}; it is at least 1, or None for a new view in each epoch.")
    for name, value, known in (("purpose", purpose, PURPOSES), ("schedule", schedule, SCHEDULES)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; it can be one of {known}.")
    if also_after and (teacher is not None or schedule != "constant" or max(also_after) >= epochs):
        raise ValueError(
            f"also_after is {also_after}: it is for runs of more epochs than that, at a constant rate, without a "
            f"teacher; received epochs {epochs}, schedule {schedule!r}, teacher {teacher_name(teacher)}."
        )
    if isinstance(teacher, tuple) and not method.several_teachers:
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
    options = shared | {"view": view, "views": views if view else None}
    config = {
        "task": task,
        "model": build_model.__name__,
        "method": method.name,
        "hyperparameters": {name: described(value) for name, value in vars(method).items()},
        "teacher": teacher_name(teacher),
        "purpose": purpose,
        "profile": settings.profile,
        "data": data.digest,
        **options,
        "view": repr(view) if view else None,
        "code": results.code_version(type(method), *code_parts(method), build_model, train_once, Dataset, *helpers),
        "tensorflow": results.versions()["tensorflow"],
        "keras": results.versions()["keras"],
    }
    weights = weights_path(cache, config)

    taught_by = teacher if method.needs_teacher else None  # `Scratch` is only compared with one

    def make_model():
        return method.make_student(build_model, data.num_classes)

    def train() -> Run:
        free_networks()
        teacher_model = model_of(teacher)
        content = {"profile": settings.profile, "source": data.source, "standin": data.standin}
        content["teacher_weights"] = teacher_weights(teacher)

        def finish(config, model, measured):
            weights = weights_path(cache, config)
            save_weights(model, weights)
            whole = content | {"status": "finished", **measured, "weights_digest": results.file_digest(weights)}
            results.save_record(runs, config, whole)

        def finish_early(number, model, history, seconds):
            finish(config | {"epochs": number}, model, measure(model, data, purpose, [history], seconds))

        callbacks = [AfterEpochs(also_after, finish_early)] if also_after else []
        bar = ProgressBar(title or f"{method.name} seed {seed}", len(splits(data, purpose)[0]))
        try:
            model, measured = train_once(
                build_model, method, data, teacher_model, purpose=purpose, signal_folder=cache / "signals",
                callbacks=[OptimizerFirst(), bar, *callbacks], **options,
            )  # fmt: skip
        except TrainingFailed as failure:
            results.save_failure(runs, config, content | {"reason": str(failure)})
            raise
        finish(config, model, measured)
        return Run(results.load_record(runs, config), weights, build_model, make_model, train, taught_by)

    record = results.load_record(runs, config)
    # A teacher that had to be trained again, on another machine say, is another teacher if its weights differ.
    usable = record is not None and record["teacher_weights"] == teacher_weights(teacher)
    return Run(record, weights, build_model, make_model, train, taught_by) if usable else train()


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
