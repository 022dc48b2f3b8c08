"""What each method's training costs beside KD's, on Task 1's networks, interleaved: `python -m benchmarks.methods`.

    epoch     of the student's last stage under each method's loss, heads included, teacher signals cached
    in all    12 such epochs, the stages before them, every teacher behind the student with 12 epochs of its own, and
              one asking of each teacher

The stored runs were trained several at a time, so that their wall times also measure what ran beside them. Here one
process trains one epoch of everything in turn, round by round, and ratios are taken within a round. What is learned is
of no interest: teacher signals are random numbers in the right shapes. Settings are the methods' defaults.
"""

import argparse
from time import perf_counter

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from benchmarks.speed import BATCH, mnist_sized
from utils import fitting, plots, signals
from utils import methods as M
from utils.data import Split, pipeline
from utils.distiller import Distiller, signal_shapes
from utils.methods.sftn import FriendlyTeacher
from utils.models import mnist_assistant, mnist_student, mnist_teacher
from utils.settings import settings

EPOCHS, IMAGES, CLASSES = 12, 60_000, 10
STUDENTS = {"scratch": M.Scratch()} | {name: make() for name, make in M.METHODS.items() if name != "skd"}
# name: (network, its method, who teaches it), each once
TEACHERS = {
    "teacher": (mnist_teacher, M.Scratch(), ()),
    "friendly teacher": (mnist_teacher, FriendlyTeacher(), ()),
    "teacher with subclasses": (mnist_teacher, M.SubclassTeacher(5), ()),
    "assistant": (mnist_assistant, M.KD(), ("teacher",)),
}
# Who teaches a student where it is not the plain teacher.
OTHER_TEACHERS = {
    "scratch": (), "takd": ("assistant",), "sftn": ("friendly teacher",), "subclass": ("teacher with subclasses",),
    "ensemble": ("teacher",) * 3,
}  # fmt: skip


class StepsClock(keras.callbacks.Callback):
    """Seconds from the first step of an epoch to the end of its last one: without starting the pipeline, which a run
    of twelve epochs does once."""

    def on_train_begin(self, logs=None):
        self.began = None

    def on_train_batch_begin(self, batch, logs=None):
        self.began = self.began or perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds = perf_counter() - self.began


def random_signals(method, count: int) -> dict[str, np.ndarray] | None:
    """Signals of one view in the shapes that the method's teacher would give, {name: [1, count, ...]}."""
    if not method.needs_teacher:
        return None
    if isinstance(method, M.Subclass):
        shapes = {"logits": (CLASSES,), "subclass": (CLASSES * method.subclasses,)}
    else:
        shapes = signal_shapes(mnist_teacher(), method.teacher_taps)
    if method.several_teachers:
        shapes |= {"members": (3, CLASSES)}
    numbers = np.random.default_rng(0)
    return {name: numbers.normal(size=(1, count, *shape)).astype(np.float32) for name, shape in shapes.items()}


def epochs_of(build_model, method, split: Split) -> list:
    """[(epochs in the protocol, function that trains one epoch and returns its seconds for an image)] of the method's
    stages, with XLA where a run on all of MNIST has it."""
    network = method.make_student(build_model, CLASSES)
    said = random_signals(method, len(split))
    shapes = {name: array.shape[2:] for name, array in (said or {}).items()}
    steps = pipeline.steps(len(split), BATCH)

    def stage_of(stage, epochs):
        compiled = fitting.compile_with_xla(network, epochs * pipeline.steps(IMAGES, BATCH))
        distiller = Distiller(network, None, stage, M.Sizes(images=IMAGES, teacher=shapes))
        distiller.compile(
            optimizer=fitting.Adam(1e-3),
            jit_compile=compiled,
            steps_per_execution=fitting.block_length(steps) if compiled else 1,
        )

        def one_epoch():
            clock = StepsClock()
            batches = pipeline.batches(split, batch_size=BATCH, signals=said)
            distiller.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[clock])
            return clock.seconds / len(split)

        return one_epoch

    return [(epochs, stage_of(stage, epochs)) for stage, epochs in method.stages(EPOCHS)]


def asked(build_model, split: Split):
    """A function that asks a network once about every image of `split` and returns the seconds for each."""
    network = build_model()
    forward = tf.function(lambda images: network(images, training=False), reduce_retracing=True)

    def ask():
        began = perf_counter()
        for batch in pipeline.batches(split, batch_size=signals.BATCH, shuffle=False):
            forward(batch["image"]).numpy()
        return (perf_counter() - began) / len(split)

    return ask


def in_all(times: dict) -> dict[str, float]:
    """Seconds of a whole run of each method on MNIST, from `times` in seconds for an image: {name: seconds}.

    `times` maps a method to [(epochs, time)] of its stages, a teacher to the same, and ("ask", teacher) to a time.
    """

    def trained(name):
        return IMAGES * sum(epochs * time for epochs, time in times[name])

    def taught_by(names):
        return sum(trained(name) + IMAGES * times["ask", name] + taught_by(TEACHERS[name][2]) for name in names)

    return {name: trained(name) + taught_by(OTHER_TEACHERS.get(name, ("teacher",))) for name in STUDENTS}


def race(split: Split, few: Split, rounds: int) -> list[dict]:
    """For each round, `times` as `in_all` wants them."""
    students = {name: epochs_of(mnist_student, method, split) for name, method in STUDENTS.items()}
    teachers = {name: epochs_of(build, method, few) for name, (build, method, _) in TEACHERS.items()}
    asking = {("ask", name): asked(build, few) for name, (build, _, _) in TEACHERS.items()}
    found = []
    for number in range(rounds + 1):
        found.append({
            name: [(epochs, one_epoch()) for epochs, one_epoch in stages]
            for name, stages in (students | teachers).items()
        } | {name: ask() for name, ask in asking.items()})  # fmt: skip
        print(f"round {number}: an epoch of kd {IMAGES * found[-1]['kd'][-1][1]:.1f} s", flush=True)
    return found[1:]  # round 0 compiles


def compared(rounds: list[dict]) -> pd.DataFrame:
    """One row for each method: medians and ranges over the rounds of its ratios to KD."""
    epoch = pd.DataFrame({name: [of[name][-1][1] / of["kd"][-1][1] for of in rounds] for name in STUDENTS})
    whole = pd.DataFrame([in_all(of) for of in rounds])
    whole = whole.div(whole["kd"], axis=0)
    return pd.DataFrame({
        f"{part}, {statistic}": getattr(ratios, statistic)()
        for part, ratios in (("epoch", epoch), ("in all", whole)) for statistic in ("median", "min", "max")
    })  # fmt: skip


def draw(numbers, text):
    """An epoch, and all of the training, of each method in those of KD: medians with their range over rounds."""
    table = pd.DataFrame(numbers["rows"]).set_index("name")
    order = table["epoch, median"].sort_values(kind="stable").index
    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), sharey=True, layout="constrained")
    titles = {"epoch": "one epoch of the student", "in all": "all training, its teachers' included"}
    for ax, (part, title) in zip(axes, titles.items(), strict=True):
        median, low, high = (table.loc[order, f"{part}, {statistic}"] for statistic in ("median", "min", "max"))
        ax.barh(
            range(len(order)), median, color=["0.65" if name in ("kd", "scratch") else plots.BLUE for name in order]
        )
        ax.errorbar(median, range(len(order)), xerr=[median - low, high - median], fmt="none", color="black", capsize=2)
        for y, name in enumerate(order):
            ax.text(high[name] + 0.02 * high.max(), y, f"{median[name]:.2f}", va="center", fontsize=8)
        ax.axvline(1, color=plots.ORANGE, ls="--")
        ax.set(xlabel="time / KD's, median and range", title=title, xlim=(0, 1.15 * high.max()))
    axes[0].set_yticks(range(len(order)), order)
    figure.supxlabel(text, fontsize=8, color="0.35")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds after one that compiles (default 5)")
    parser.add_argument("--images", type=int, default=24064, help="images in an epoch of a student (default 24064)")
    parser.add_argument("--few", type=int, default=2560, help="images in an epoch of a teacher (default 2560)")
    options = parser.parse_args()
    if options.rounds < 1 or min(options.images, options.few) < BATCH:
        parser.error(f"--rounds from 1, --images and --few from {BATCH}")
    tf.get_logger().setLevel("ERROR")  # it warns that every method traces graphs of its own, which is the intention
    keras.utils.set_random_seed(0)
    split, source = mnist_sized(options.images)
    rounds = race(split, split.take(np.arange(min(options.few, len(split)))), options.rounds)
    table = compared(rounds)
    print(table.round(2).to_string())
    seconds = {name if isinstance(name, str) else " ".join(name): [of[name] for of in rounds] for name in rounds[0]}
    numbers = {
        "rows": table.rename_axis("name").reset_index().to_dict("records"), "seconds an image": seconds,
        "images": len(split), "images of a teacher": min(options.few, len(split)),
    }  # fmt: skip
    note = f"{options.rounds} rounds, epochs of {len(split):,} images, batches of {BATCH}, default settings"
    plots.publish(
        "benchmark_methods", draw, numbers, {"task": "benchmark", "source": source, "note": note}, settings.figures
    )
    print(f"written: {settings.figures / 'benchmark_methods.json'} and .png")


if __name__ == "__main__":
    main()
