"""Finished runs: what a record and the weights beside it say, and what tells one run from another."""

import ast
import gc
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import keras

from utils import results, signals
from utils.methods import Method


@dataclass(frozen=True, eq=False)
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
        free_networks()
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


def free_networks() -> None:
    """Frees the networks that nothing names any more.

    Keras ties each into cycles with its traced functions, and Python's collector, which counts objects and not bytes,
    would leave tens of megabytes of every run lying for hundreds of runs.
    """
    gc.collect()


# What is imported by now, most of it TensorFlow, stays for the life of the process: the collector need not walk through
# all of it before every run.
gc.freeze()


def described(value):
    """A hyperparameter as JSON can hold it: functions by their name, methods within methods as they print."""
    if callable(value):
        return value.__name__
    return repr(value) if isinstance(value, Method) else value


def code_parts(method) -> list:
    """Code that a method got as a hyperparameter, and so cannot be seen in its class."""
    return [
        type(value) if isinstance(value, Method) else value
        for value in vars(method).values()
        if isinstance(value, Method) or callable(value)
    ]


def helpers_of(build_model) -> list:
    """The functions and classes of its own file or package that a builder from outside this one is made with.

    `results.code_version` follows names inside this package only. A function that was made inside another one cannot
    be told from its sisters by its code, since what differs is not in it: that is a ValueError.
    """
    if not inspect.isfunction(build_model) or build_model.__closure__:
        raise ValueError(
            f"build_model is {build_model!r}, which depends on values that its code does not show, so that its runs "
            "could not be told from another's. Pass a function defined at the top of a file or cell, that has all it "
            "needs in itself: def my_student(outputs=10): ..."
        )

    def home(thing):
        return thing.__module__.partition(".")[0]

    found, waiting = [], [build_model] if home(build_model) != __name__.partition(".")[0] else []
    while waiting:
        thing = waiting.pop()
        if thing in found:
            continue
        found.append(thing)
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
        named = [vars(sys.modules[thing.__module__]).get(n.id) for n in ast.walk(tree) if isinstance(n, ast.Name)]
        code = [value for value in named if inspect.isfunction(value) or inspect.isclass(value)]
        waiting += [value for value in code if home(value) == home(build_model)]
    return found


def teacher_name(teacher) -> str | None:
    """What tells one teacher from another in a configuration."""
    if isinstance(teacher, tuple):
        return "+".join(teacher_name(member) for member in teacher)
    return teacher.key if isinstance(teacher, Run) else teacher_weights(teacher)


def teacher_weights(teacher) -> str | None:
    """Digest of the weights a teacher has now."""
    if teacher is None:
        return None
    if isinstance(teacher, tuple):
        return "+".join(teacher_weights(member) for member in teacher)
    return teacher.record["weights_digest"] if isinstance(teacher, Run) else signals.weights_digest(teacher)


@lru_cache(maxsize=5)
def _asked(teacher: Run, weights: str) -> keras.Model:
    """A teacher's network with the weights of this digest, to be asked only: its students share it."""
    return teacher.model()


def model_of(teacher):
    """The teacher's model, or a tuple of models: to be asked, never to be trained."""
    if isinstance(teacher, tuple):
        return tuple(model_of(member) for member in teacher)
    return _asked(teacher, teacher.record["weights_digest"]) if isinstance(teacher, Run) else teacher


def weights_path(cache: Path, config: dict) -> Path:
    return cache / "weights" / f"{results.key_of(config)}.weights.h5"


def save_weights(model: keras.Model, path: Path) -> None:
    """Weights under their final name only once they are whole: a record is written after them and trusts them."""
    with _layers_counted_anew(model), results.whole_file(path, ".tmp.weights.h5") as temporary:
        model.save_weights(temporary)


@contextmanager
def _layers_counted_anew(model: keras.Model):
    """Equal weights in equal files: Keras writes the layers' names beside them, and a layer that nobody named (the
    pooling in ResNet50V2) is named after how many of its kind this process has made. Here each network counts its own.
    """
    unnamed = [layer for layer in model.layers if _stem(layer.name) == type(layer).__name__.lower()]
    names = [layer.name for layer in unnamed]
    try:
        for before, layer in enumerate(unnamed):
            number = sum(type(other) is type(layer) for other in unnamed[:before])
            layer.name = re.sub(r"_[0-9]+$", "", layer.name) + (f"_{number}" if number else "")
        yield
    finally:
        for layer, name in zip(unnamed, names, strict=True):
            layer.name = name


def _stem(name: str) -> str:
    """What Keras's own names say of the class: "max_pooling2d_9" is "maxpooling2d"."""
    return re.sub(r"_[0-9]+$", "", name).replace("_", "")
