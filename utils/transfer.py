"""Transfer learning: a pretrained network, adapted to the data in two phases, evaluated and recorded."""

from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path

import keras
import numpy as np

from utils import binary, results, signals
from utils.data import Dataset
from utils.data.views import StainView
from utils.distiller import OptimizerFirst, TrainingFailed, signal_shapes
from utils.methods import KD, Ensemble, Method, Sizes
from utils.methods.ensemble import OneForAll
from utils.methods.skd import refuse_in_vain
from utils.metrics import teacher_agreement
from utils.phases import Network, OwnNetwork, Schedule, steering, traced_once, train_earlier, train_in_phases
from utils.pretraining import SETTLING_IMAGES, Start, settle_batch_norm
from utils.progress import ProgressBar
from utils.runs import (
    Run,
    code_parts,
    described,
    free_networks,
    helpers_of,
    save_weights,
    teacher_name,
    teacher_weights,
    weights_path,
)
from utils.settings import settings

# Table 1 of the assignment; the assistant's is ours, as it is a student too.
LEARNING_RATES = {"mhist_teacher": 1e-4, "mhist_student": 1e-3, "mhist_assistant": 1e-3}


def _signal_shapes(teacher, method) -> tuple:
    """((name, shape for one image), ...); a teacher that is no model says two logits, or nothing, which weighs 0."""
    taught = isinstance(teacher, keras.Model)
    return tuple(signal_shapes(teacher, method.teacher_taps).items()) if taught else (("logits", (2,)),)


@lru_cache(maxsize=6)  # a teacher's and a student's, and what four methods made of them
def _network(build_model, method, classes, size, images, shapes) -> Network:
    return Network(build_model, method, classes, size, Sizes(images=images, teacher=dict(shapes)))


@lru_cache(maxsize=4)
def _start_weights(build_model, method, start: Start, seed: int, data: Dataset) -> list[np.ndarray]:
    """The weights a run of this seed begins with: the base's from `start`, the head's drawn."""
    size = data.train.images.shape[1]
    keras.utils.set_random_seed(seed)
    model = method.make_student(partial(build_model, size=size, weights=start.weights), data.num_classes)
    if not start.pretrained:
        settle_batch_norm(model, data.train.images[:SETTLING_IMAGES])
    return model.get_weights()


@lru_cache(maxsize=3)
def _asked(teacher: Run, inside: bool) -> keras.Model:
    """A teacher's network, to be asked only: building and tracing a large one takes seconds, and students share it.

    With `inside`, its layers can be asked too, and then each asking traces it.
    """
    model = teacher.model()
    return model if inside else traced_once(model)


def _asked_as_one(teachers: tuple[Run, ...], method: Ensemble) -> keras.Model:
    """Several teachers' networks as one whose logits are what the ensemble distils."""
    members = [_asked(teacher, False) for teacher in teachers]
    images = keras.Input(members[0].input_shape[1:], name="image")
    return keras.Model(images, OneForAll(members, method)(images), name="ensemble")


def measure(network: Network, data: Dataset, purpose: str, teacher, folder: Path) -> dict:
    """What a run's record says of a trained network. The threshold comes from validation; test is read to report."""
    parts = {"validation": data.validation} | ({"test": data.test} if purpose == "report" else {})
    logits = {name: network.logits(split.images) for name, split in parts.items()}
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise TrainingFailed("The last step left weights whose answers are not finite. Lower the learning rate.")
    scores = {name: binary.positive_scores(values) for name, values in logits.items()}
    threshold = binary.choose_threshold(data.validation.labels, scores["validation"])
    name, split = list(parts.items())[-1]
    measured = binary.binary_summary(split.labels, scores[name], threshold)
    if isinstance(teacher, keras.Model):
        theirs = signals.teacher_signals(teacher, split, folder=folder)["logits"][0]
        measured |= teacher_agreement(theirs, logits[name])
    return {"evaluated_on": name, "metrics": measured, "threshold": threshold, "scores": scores}


def transfer_learn(
    build_model,
    method: Method,
    data: Dataset,
    *,
    starts: dict[str, Start],
    schedule: Schedule,
    teacher: "Run | tuple[Run, ...] | np.ndarray | None" = None,
    seed: int = 0,
    purpose: str = "report",
    view: StainView | None = StainView(),  # noqa: B008 a frozen value
    rate: float | None = None,
    title: str = "",
    runs: Path | None = None,
    cache: Path | None = None,
) -> Run:
    """Transfer a pretrained network to the data in two phases, evaluate it, record it; or return the recorded run.

    Every run trains on the train split alone, also when it is reported: validation is kept for the threshold.

    Args:
        build_model: a function of `utils.models` for Task 2.
        method: the loss; `Scratch()` for the teacher, and for the student without KD. Stages before its last are
            trained before the two phases; a teacher of so many epochs, which ESKD asks for, ends within them.
        data: labels 0 (HP) and 1 (SSA); square images of at least 32 pixels.
        starts: {name of the building function: where its base begins}, for this network and those that the method
            trains on the way.
        schedule: epochs, batch size and views.
        teacher: a Run; a tuple of them for an ensemble; or logits [n, C] for the training images in their place.
        purpose: "choose" looks at validation only; "report" also reads the test split, once, at the end.
        view: augmentation: teacher and student see the same picture. None: the images as they are.
        rate: of the frozen phase, a tenth of it in fine-tuning; that of Table 1 by default.
        runs, cache: folders of records and of weights and signals; those of the profile by default.

    Returns:
        The run. Its record has "metrics" (see `utils.binary`) on validation or test, and "scores", P(SSA) of every
        image of both.
    """
    if purpose not in ("choose", "report"):
        raise ValueError(f"purpose is {purpose!r}; it can be 'choose' or 'report'.")
    helpers = helpers_of(build_model)
    refuse_in_vain(method)
    if schedule.views < 1 or schedule.batch_size < 1 or min(schedule.initial_epochs, schedule.fine_tune_epochs) < 0:
        raise ValueError(f"{schedule}: views and batch_size must be at least 1, epochs 0 or more.")
    if method.needs_teacher and (teacher is None or (isinstance(teacher, tuple) and not teacher)):
        wanted = "a tuple of Runs" if method.several_teachers else "a Run, or logits for the training images"
        raise ValueError(f"The method {method.name!r} needs a teacher. Pass {wanted}.")
    members = teacher if isinstance(teacher, tuple) else (teacher,)
    if not (teacher is None or isinstance(teacher, np.ndarray) or all(isinstance(member, Run) for member in members)):
        given = type(teacher).__name__
        if isinstance(teacher, tuple):
            given += f" of {', '.join(type(member).__name__ for member in members)}"
        raise ValueError(
            f"The teacher is a {given}. Pass a Run from transfer_learn, a tuple of such Runs for an ensemble, or "
            "logits [n, C] for the training images."
        )
    if method.several_teachers != isinstance(teacher, tuple):
        wanted = "several teachers, as a tuple of Runs" if method.several_teachers else "one teacher"
        raise ValueError(f"The method {method.name!r} learns from {wanted}; teacher is a {type(teacher).__name__}.")
    epochs = schedule.initial_epochs + schedule.fine_tune_epochs
    *earlier, last = method.stages(epochs)
    if last != (method, epochs) or method.teacher_sees != "same":
        raise ValueError(
            f"The method {method.name!r} does not end in itself for the whole schedule, or has a teacher that sees "
            "other pictures than its student; transfer learning has two phases and shows both the same picture. Take "
            "another method, or train with utils.training.train_and_evaluate."
        )
    asks_several = isinstance(method, Ensemble)  # which is KD from one teacher that answers for all
    traced, steered = steering(KD(method.alpha, method.temperature) if asks_several else method)
    asked_within = any(stage.teacher_taps for stage in (traced, *(stage for stage, _ in earlier)))
    if asked_within and method.needs_teacher and not isinstance(teacher, Run):
        raise ValueError(
            f"The method {method.name!r} reads layers within its teacher, and {type(teacher).__name__} has none. Pass "
            "a Run."
        )
    if isinstance(teacher, np.ndarray) and teacher.shape != (len(data.train), data.num_classes):
        raise ValueError(
            f"The teacher's logits are {teacher.shape}; there are {len(data.train):,} training images and "
            f"{data.num_classes} classes."
        )
    runs, cache = Path(runs or settings.runs), Path(cache or settings.cache)
    folders = {"runs": runs, "cache": cache}
    if method.needs_teacher:

        def train_other(build_model, method, teacher=None, epochs=None):
            return transfer_learn(
                build_model, method, data, starts=starts, schedule=schedule.stopped_after(epochs), teacher=teacher,
                seed=seed, purpose=purpose, view=view, **folders,
            )  # fmt: skip

        teacher = method.prepare_teacher(train_other, teacher, build_model)
    if build_model.__name__ not in starts:
        raise ValueError(f"starts says nothing of {build_model.__name__!r}; it has {sorted(starts)}.")
    start = starts[build_model.__name__]
    if start.weights not in (None, "imagenet") and start.digest is None:  # a file may change under its name
        start = replace(start, digest=results.file_digest(Path(start.weights))[:12])
    if rate is None and build_model.__name__ not in LEARNING_RATES:
        raise ValueError(
            f"Table 1 has no rate for {build_model.__name__!r}, only for {sorted(LEARNING_RATES)}. Pass rate=."
        )
    rate = LEARNING_RATES[build_model.__name__] if rate is None else rate
    size = data.train.images.shape[1]
    trained = isinstance(teacher, Run | tuple)
    given = teacher_name(teacher) if trained else None if teacher is None else results.digest(teacher)
    own_heads = type(traced).make_heads is not Method.make_heads
    config = {
        "task": "task2",
        "model": build_model.__name__,
        "method": method.name,
        "hyperparameters": {name: described(value) for name, value in vars(method).items()},
        "teacher": given,
        # Not the file's name: that of a pretext start tells its code, which may change without a change of the weights.
        "start": {"label": start.label, "digest": start.digest},
        "purpose": purpose,
        "profile": settings.profile,
        "data": data.digest,
        "seed": seed,
        **asdict(schedule),
        "learning_rate": rate,
        "view": repr(view) if view else None,
        "code": results.code_version(
            _start_weights.__wrapped__,
            _asked.__wrapped__,
            train_in_phases,
            measure,
            Network,
            type(method),
            *code_parts(method),
            type(traced),
            build_model,
            Dataset,
            *helpers,
            *((_asked_as_one,) if asks_several else ()),
            *((OwnNetwork,) if own_heads else ()),
            *((train_earlier, *(type(stage) for stage, _ in earlier)) if earlier else ()),
        ),
        "tensorflow": results.versions()["tensorflow"],
        "keras": results.versions()["keras"],
    }
    weights = weights_path(cache, config)

    def make_model():
        return method.make_student(partial(build_model, size=size), data.num_classes)

    def finished(record) -> Run:
        return Run(record, weights, build_model, make_model, train, teacher if method.needs_teacher else None)

    def train() -> Run:
        free_networks()
        # This may have to make the teacher again.
        teacher_model = teacher
        if asks_several:
            teacher_model = _asked_as_one(teacher, method)
        elif isinstance(teacher, Run):
            teacher_model = _asked(teacher, asked_within)
        content = {
            "profile": settings.profile, "source": data.source, "standin": data.standin, "start": start.label,
            "teacher_weights": teacher_weights(teacher) if trained else None,
        }  # fmt: skip
        make = build_model, traced, data.num_classes, size
        shapes = _signal_shapes(teacher_model, traced)
        if own_heads:
            network = OwnNetwork(*make, Sizes(images=len(data.train), teacher=dict(shapes)), seed=seed)
        else:
            network = _network(*make, len(data.train), shapes)
        begin = _start_weights(build_model, traced, start, seed, data)
        bar = ProgressBar(title or f"{build_model.__name__}, {method.name}, seed {seed}", len(data.train))
        taught_by = teacher_model if method.needs_teacher else None
        options = {
            "seed": seed, "schedule": schedule, "rate": rate, "view": view, "folder": cache / "signals",
            "callbacks": [OptimizerFirst(), bar],
        }  # fmt: skip
        try:
            before = {}
            if earlier:
                begin, histories, seconds = train_earlier(network, earlier, begin, data, taught_by, **options)
                before = {"earlier_stages": histories, "earlier_seconds": seconds}
            measured = before | train_in_phases(network, begin, data, taught_by, steered=steered, **options)
            measured |= measure(network, data, purpose, teacher_model, cache / "signals")
        except TrainingFailed as failure:
            results.save_failure(runs, config, content | {"reason": str(failure)})
            raise
        save_weights(network.model, weights)
        digest = results.file_digest(weights)
        results.save_record(runs, config, content | {"status": "finished", **measured, "weights_digest": digest})
        return finished(results.load_record(runs, config))

    record = results.load_record(runs, config)
    usable = record is not None and record["teacher_weights"] == (teacher_weights(teacher) if trained else None)
    return finished(record) if usable else train()
