"""Training speed of one student, distilled in four ways and trained alone, interleaved: `python -m benchmarks.speed`.

    template   the course template's loop: eager gradient tape, live teacher
    keras      keras.distillation.Distiller with the Kullback-Leibler loss that is Hinton's, with and without XLA
    live       our Distiller, asking the live teacher
    cached     our Distiller, with the teacher's answers computed once
    scratch    the student alone, plain Keras `fit`
    limit      the student's forward and backward arithmetic at the rate of a large matrix product

First those that distil are shown to compute the same loss and gradient on one batch. Then each round trains every
variant once, so that the machine's moods fall on all alike; ratios are taken within a round. The fast variants train
several epochs in a round, whose median counts, and each is stored: epochs of one code can differ by the threads' moods.
"""

import argparse
import time
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from utils import fitting, losses, plots, results, signals
from utils.data import Split, load_mnist, pipeline
from utils.distiller import Distiller, OptimizerFirst
from utils.methods import KD
from utils.models import mnist_student, mnist_teacher
from utils.progress import peak_memory
from utils.settings import settings

ALPHA, T, BATCH = 0.5, 4.0, 256
MOST_IMAGES = 30720  # of `growth`
# Of a training step: forward, gradient of the weights, and of the inputs of all layers but the first.
IMAGE_FLOPS = 2 * (2 * 784 * 784 + 3 * 784 * 784 + 3 * 784 * 10)


class EpochClock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.began)


def mnist_sized(count: int) -> tuple[Split, str]:
    """`count` training images of MNIST's size, repeated where there are fewer, and what they are."""
    data = load_mnist()
    whole = data.all_train
    return whole.take(np.arange(count) % len(whole)), data.source


def fit_rates(model, split: Split, teacher_signals=None, as_pairs: bool = False, epochs: int = 1) -> list[float]:
    """Images a second in each of `epochs` epochs, after one that pays for compiling and starting the pipeline."""
    steps = pipeline.steps(len(split), BATCH)
    data = pipeline.batches(split, batch_size=BATCH, epochs=1 + epochs, signals=teacher_signals)
    if as_pairs:
        data = data.map(lambda batch: (batch["image"], batch["label"]))
    clock = EpochClock()
    callbacks = [OptimizerFirst(), clock] if isinstance(model, Distiller) else [clock]  # as in `train_and_evaluate`
    model.fit(data, epochs=1 + epochs, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=callbacks)
    return [len(split) / seconds for seconds in clock.seconds[1:]]


def template_loop(teacher, student):
    """The template's training loop: everything eager, the loss asks both models."""
    optimizer = keras.optimizers.Adam(1e-3)

    def compute_loss(images, labels):
        student_logits = student(images, training=True)
        teacher_logits = teacher(images, training=False)
        return losses.compute_student_loss(labels, teacher_logits, student_logits, ALPHA, T)

    def rate(split):
        data = pipeline.batches(split, batch_size=BATCH)
        began = time.perf_counter()
        for batch in data:
            with tf.GradientTape() as tape:
                loss = compute_loss(batch["image"], batch["label"])
            gradients = tape.gradient(loss, student.trainable_variables)
            optimizer.apply_gradients(zip(gradients, student.trainable_variables, strict=True))
        return len(split) / (time.perf_counter() - began)

    return compute_loss, rate


def keras_distiller(teacher, student, jit: bool, temperature: float = T):
    """Keras's own Distiller under the same loss. Its string losses are not Hinton's; the instance is."""
    model = keras.distillation.Distiller(
        teacher=teacher,
        student=student,
        distillation_losses=keras.distillation.LogitsDistillation(
            temperature=temperature, loss=keras.losses.KLDivergence()
        ),
        student_loss_weight=1 - ALPHA,
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit,
    )
    return model


def our_distiller(teacher, student, steps: int, temperature: float = T):
    model = Distiller(student, teacher, KD(ALPHA, temperature))
    model.compile(optimizer=fitting.Adam(1e-3), jit_compile=True, steps_per_execution=fitting.block_length(steps))
    return model


def fresh_student():
    keras.utils.set_random_seed(0)
    return mnist_student()


def same_loss_and_gradient(teacher, split: Split) -> dict:
    """Loss and gradient of every variant on one batch; a ValueError where they differ by more than 0.1%."""
    student = fresh_student()
    batch = next(iter(pipeline.batches(split, batch_size=BATCH)))
    cached = batch | {"teacher": {"logits": teacher(batch["image"], training=False)}}
    ours, peer = Distiller(student, teacher, KD(ALPHA, T)), keras_distiller(teacher, student, jit=False)
    compute_loss, _ = template_loop(teacher, student)

    def keras_loss():
        predicted = peer(batch["image"], training=True)
        return peer.compute_loss(x=batch["image"], y=batch["label"], y_pred=predicted, training=True)

    def our_loss(given):
        return ours.method.loss(
            ours.with_teacher_signals(given), {"logits": student(given["image"], training=True)}, {}
        )[0]

    found = {}
    for name, loss in {
        "template": lambda: compute_loss(batch["image"], batch["label"]),
        "keras": keras_loss,
        "live": lambda: our_loss(batch),
        "cached": lambda: our_loss(cached),
    }.items():
        with tf.GradientTape() as tape:
            value = loss()
        gradient = np.concatenate([g.numpy().ravel() for g in tape.gradient(value, student.trainable_variables)])
        found[name] = (float(value), gradient)
    value, gradient = found["template"]
    report = {}
    for name, (other, other_gradient) in found.items():
        gap = float(np.linalg.norm(other_gradient - gradient) / np.linalg.norm(gradient))
        report[name] = {"loss": other, "relative gap of the gradient": gap}
        if abs(other - value) > 1e-3 * abs(value) or gap > 1e-3:
            raise ValueError(f"{name} computes another loss or gradient than the template: {report}. No race.")
    return report


def matrix_rate(size: int = 2048, times: int = 7) -> float:
    """Operations a second of a large matrix product."""
    a = tf.random.normal([size, size])
    product = tf.function(lambda a: tf.reduce_sum(a @ a))
    product(a)
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        product(a).numpy()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / float(np.median(seconds))


def race(teacher, split: Split, rounds: int, epochs: int) -> tuple[pd.DataFrame, dict[str, list[float]]]:
    """Images a second of each variant in each round, and of the fast ones in every epoch, {name: [rates]}."""
    short, shorter = split.take(np.arange(12800)), split.take(np.arange(2560))
    keras_xla, keras_plain = (keras_distiller(teacher, fresh_student(), jit) for jit in (True, False))
    live = our_distiller(teacher, fresh_student(), pipeline.steps(len(short), BATCH))
    cached = our_distiller(None, fresh_student(), pipeline.steps(len(split), BATCH))
    alone = fresh_student()
    alone.compile(
        keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    _, template = template_loop(teacher, fresh_student())
    answers = signals.teacher_signals(teacher, split, folder=None)

    def teacher_pass():
        began = time.perf_counter()
        signals.teacher_signals(teacher, short, folder=None)
        return len(short) / (time.perf_counter() - began)

    variants = {
        "template": lambda: [template(shorter)],
        "keras, XLA": lambda: fit_rates(keras_xla, short, as_pairs=True),
        "keras, no XLA": lambda: fit_rates(keras_plain, short, as_pairs=True),
        "live": lambda: fit_rates(live, short),
        "cached": lambda: fit_rates(cached, split, answers, epochs=epochs),
        "scratch": lambda: fit_rates(alone, split, as_pairs=True, epochs=epochs),
        "limit": lambda: [matrix_rate() / IMAGE_FLOPS],
        "teacher pass": lambda: [teacher_pass()],
    }
    found = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, measure in variants.items():
            found[name].append(measure())
        now = ", ".join(f"{name} {np.median(rates[-1]):,.0f}" for name, rates in found.items())
        print(f"round {number}: {now}", flush=True)
    found = {name: rates[1:] for name, rates in found.items()}  # round 0 warms up
    table = pd.DataFrame({name: [float(np.median(rates)) for rates in of] for name, of in found.items()})
    return table, {name: np.concatenate(of).tolist() for name, of in found.items() if len(of[0]) > 1}


def ratios(rates: pd.DataFrame, epochs: int = 12) -> pd.DataFrame:
    """Ratios within each round: cached against the others, and with the teacher's pass paid for."""
    best_keras = rates[["keras, XLA", "keras, no XLA"]].max(axis=1)
    # One pass of the teacher, spread over the epochs of one run.
    paid = 1 / (1 / rates["cached"] + 1 / (epochs * rates["teacher pass"]))
    return pd.DataFrame(
        {
            "cached / keras": rates["cached"] / best_keras,
            f"cached, its pass paid in {epochs} epochs / keras": paid / best_keras,
            "cached / template": rates["cached"] / rates["template"],
            "cached / scratch": rates["cached"] / rates["scratch"],
            "cached / limit": rates["cached"] / rates["limit"],
            "live / keras": rates["live"] / best_keras,
        }
    )


def sweep_seconds(teacher, split: Split, epochs: int, keras_jit: bool) -> dict:
    """Wall time of a six-temperature sweep from fresh students, compiling included: ours, and Keras's Distiller with
    the jit setting that won the race."""
    temperatures, found = (1, 2, 4, 16, 32, 64), {}
    steps = pipeline.steps(len(split), BATCH)
    began = time.perf_counter()
    answers = signals.teacher_signals(teacher, split, folder=None)
    for t in temperatures:
        model = our_distiller(None, fresh_student(), steps, float(t))
        data = pipeline.batches(split, batch_size=BATCH, epochs=epochs, signals=answers)
        model.fit(data, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[OptimizerFirst()])
    found["ours"] = time.perf_counter() - began
    began = time.perf_counter()
    for t in temperatures:
        model = keras_distiller(teacher, fresh_student(), jit=keras_jit, temperature=float(t))
        data = pipeline.batches(split, batch_size=BATCH, epochs=epochs).map(lambda b: (b["image"], b["label"]))
        model.fit(data, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
    found["keras"] = time.perf_counter() - began
    return found | {"ratio": found["keras"] / found["ours"], "images": len(split), "epochs": epochs}


def growth(teacher, split: Split) -> dict:
    """Seconds against the number of students, epochs, views and images, each at three sizes, the others fixed.

    Where there are several views, each is an epoch.
    """
    found = {}

    def seconds(students=1, epochs=2, views=1, images=15360):
        part = split.take(np.arange(images))
        view = pipeline.View(shift=2.0, rotation=0.0, zoom=0.0) if views > 1 else None
        steps = pipeline.steps(images, BATCH)
        began = time.perf_counter()
        answers = signals.teacher_signals(teacher, part, folder=None, view=view, epochs=views)
        asked = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(students):
            data = pipeline.batches(part, batch_size=BATCH, epochs=max(epochs, views), view=view, signals=answers)
            model = our_distiller(None, fresh_student(), steps)
            model.fit(data, epochs=max(epochs, views), steps_per_epoch=steps, shuffle=False, verbose=0,
                      callbacks=[OptimizerFirst()])  # fmt: skip
        return {"teacher": asked, "students": time.perf_counter() - began}

    for name, sizes in {
        "students": (1, 2, 4), "epochs": (2, 4, 8), "views": (2, 4, 8), "images": (7680, 15360, MOST_IMAGES)
    }.items():  # fmt: skip
        found[name] = {size: seconds(**{name: size}) for size in sizes}
    return found


def draw(numbers, text):
    """Median images a second of each way to train with the range over rounds, and the machine's limit as a line."""
    rates = pd.DataFrame(numbers["rates"])
    limit = rates["limit"].median()
    rates = rates.drop(columns=["limit", "teacher pass"])
    order = rates.median().sort_values().index
    median, low, high = (getattr(rates[order], part)() for part in ("median", "min", "max"))
    with plt.rc_context(plots.STYLE):
        figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
    ours = {"live": "ours, live teacher", "cached": "ours, cached signals", "scratch": "student alone, Keras fit"}
    ax.barh(range(len(order)), median, color=[plots.BLUE if name in ("live", "cached") else "0.65" for name in order])
    ax.errorbar(median, range(len(order)), xerr=[median - low, high - median], fmt="none", color="black", capsize=3)
    for y, name in enumerate(order):
        ax.text(high[name] + 0.015 * limit, y, f"{median[name]:,.0f}", va="center", fontsize=9)
    ax.axvline(limit, color=plots.ORANGE, ls="--", label=f"the student's arithmetic alone: {limit:,.0f}")
    ax.set_yticks(range(len(order)), [ours.get(name, name) for name in order])
    ax.set(xlabel="training images per second, median and range", xlim=(0, 1.15 * limit))
    ax.legend(loc="lower right", bbox_to_anchor=(0.86, 0), fontsize=9)  # left of the line it names
    figure.supxlabel(text, fontsize=8, color="0.35")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds after one warm-up (default 5)")
    parser.add_argument("--images", type=int, default=60000, help="images in an epoch of the fast variants")
    parser.add_argument(
        "--epochs", type=int, default=4, help="counted epochs of the fast variants in a round (default 4)"
    )
    parser.add_argument("--sweep-images", type=int, default=60000, help="images of the timed sweep")
    parser.add_argument("--sweep-epochs", type=int, default=12, help="epochs of the timed sweep")
    options = parser.parse_args()
    if min(options.rounds, options.epochs) < 1 or options.images < MOST_IMAGES or options.sweep_images > options.images:
        parser.error(
            f"--rounds and --epochs from 1, --images from {MOST_IMAGES:,}, --sweep-images of no more than these"
        )
    split, source = mnist_sized(options.images)
    keras.utils.set_random_seed(0)
    teacher = mnist_teacher()
    check = same_loss_and_gradient(teacher, split)
    print(pd.DataFrame(check).T.to_string(), "\n")
    rates, by_epoch = race(teacher, split, options.rounds, options.epochs)
    ratio = ratios(rates)
    keras_jit = bool(rates["keras, XLA"].median() > rates["keras, no XLA"].median())
    numbers = {
        "rates": rates.to_dict("list"),
        "by epoch": by_epoch,
        "ratios": ratio.to_dict("list"),
        "same loss": check,
        "sweep": sweep_seconds(teacher, split.take(np.arange(options.sweep_images)), options.sweep_epochs, keras_jit),
        "growth": growth(teacher, split),
        "peak memory, GiB": peak_memory(),
    }
    for name, table in (("images per second", rates), ("ratios within a round", ratio)):
        print(f"\n{name}\n{table.agg(['min', 'median', 'max']).T.round(2).to_string()}")
    for name, of_epochs in by_epoch.items():
        print(f"{name}, images a second in each epoch: {' '.join(f'{rate:.0f}' for rate in of_epochs)}")
    print("\nsix-temperature sweep, seconds:", {k: round(v, 2) for k, v in numbers["sweep"].items()})
    for name, sizes in numbers["growth"].items():
        line = {size: {part: round(s, 2) for part, s in parts.items()} for size, parts in sizes.items()}
        print(f"seconds by {name}: {line}")
    print(f"peak memory of this process: {numbers['peak memory, GiB']:.2f} GiB")
    folder = Path(settings.figures)
    note = f"{options.rounds} rounds, {tf.config.threading.get_intra_op_parallelism_threads() or 'all'} threads"
    plots.publish("benchmark_speed", draw, numbers, {"task": "benchmark", "source": source, "note": note}, folder)
    print(f"written: {folder / 'benchmark_speed.json'} and .png; versions {results.versions()}")


if __name__ == "__main__":
    main()
