"""Speed of Task 2's two phases, cached against plain, interleaved: `python -m benchmarks.transfer`.

    frozen   the frozen phase of a sweep of six temperatures. Plain: every batch goes through the frozen base and the
             teacher. Cached: both are asked once for each view, and only heads are trained; the asking is included.
    tuning   one fine-tuning epoch of the distilled student at 224 pixels, with the teacher's answers cached or the
             teacher asked live. Asking is timed apart: a view's answers serve every epoch and run that shows it.

From the same measurements comes how long the full profile takes on MHIST: see `expected_hours`.

Both ways compute the same loss (tests/test_transfer.py shows that they give the same head), each is traced before the
clock runs, and ratios are taken within a round.
"""

import argparse
import time

import keras
import numpy as np
import pandas as pd

from benchmarks.speed import matrix_rate
from utils import models, plots, pretraining, signals
from utils.data import Split, pipeline
from utils.data.polyps import draw_polyps
from utils.data.views import StainView
from utils.distiller import Distiller
from utils.methods import Sizes
from utils.phases import Network, Steered, feature_batches, traced_once
from utils.progress import peak_memory
from utils.settings import settings

TEMPERATURES, ALPHA, BATCH, VIEW = (1, 2, 4, 16, 32, 64), 0.5, 32, StainView()
# The full profile on MHIST: training images (all but validation), epochs of fine-tuning, views, and what Task2.ipynb
# trains: networks as large as the teacher (the teacher, without pretraining, on bins, with subclasses, student-
# friendly; one stopped halfway; the assistant is four fifths of one), and students (two of them three times as long).
IMAGES, EPOCHS, VIEWS, SEEDS = 1849, 25, 10, 3
TEACHERS, STUDENTS = (5 + 0.5 + 0.8) * SEEDS, (29 + 2 * 3) * SEEDS + 4
ASKED_TOGETHER = SEEDS**2  # teachers of an ensemble, asked anew for the views of each seed
T4_RATE = 8.1e12  # single-precision operations a second, NVIDIA's data sheet


def drawn(count: int, size: int) -> Split:
    polyps = draw_polyps(count, size=size, seed=0)
    return Split(polyps.images, (polyps.severity > np.median(polyps.severity)).astype(np.int32))


def steer(batches, temperature: float):
    return batches.map(lambda batch: batch | {"alpha": ALPHA, "temperature": float(temperature)})


class Race:
    """The networks of one image size, their weights at the start, and each way traced once."""

    def __init__(self, size: int, split: Split):
        keras.utils.set_random_seed(0)
        self.split, self.size = split, size
        self.teacher = models.mhist_teacher(size=size)
        self.network = Network(models.mhist_student, Steered(), 2, size, Sizes(teacher={"logits": (2,)}))
        for model in (self.teacher, self.network.model):
            pretraining.settle_batch_norm(model, split.images[:BATCH])
        self.weights = self.network.model.get_weights()
        self.asked = traced_once(self.teacher)  # as students of one teacher ask it

    def plain(self, frozen: bool) -> Distiller:
        """Our Distiller over the whole network, asking the live teacher."""
        student = models.mhist_student(size=self.size)
        student.set_weights(self.weights)
        if frozen:
            for layer in student.layers[: [layer.name for layer in student.layers].index("pool")]:
                layer.trainable = False
        distiller = Distiller(student, self.teacher, Steered())
        distiller.compile(keras.optimizers.Adam(1e-3))
        return distiller

    def batches(self, epochs: int, said=None):
        return pipeline.batches(
            self.split, batch_size=BATCH, epochs=epochs, view=VIEW, views=epochs if said else None, signals=said
        )

    def ask(self, model, views: int) -> np.ndarray:
        """What a model says of each view, [views, n, ...]."""
        return signals.teacher_signals(model, self.split, folder=None, view=VIEW, epochs=views)["logits"]

    @property
    def steps(self) -> int:
        return pipeline.steps(len(self.split), BATCH)


def seconds(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def frozen_sweep(race: Race, epochs: int, rounds: int) -> pd.DataFrame:
    """Seconds of the sweep's frozen phase in each round."""
    plain = race.plain(frozen=True)
    head = plain.student.get_layer("logits")

    def cached():
        said, features = {"logits": race.ask(race.asked, epochs)}, race.ask(race.network.base, epochs)
        for t in TEMPERATURES:
            race.network.start(race.weights, 0)
            shown = feature_batches(features, race.split, batch_size=BATCH, seed=0, epochs=epochs, said=said)
            race.network.fit("frozen", steer(shown, t), rate=1e-3, epochs=epochs, steps=race.steps, callbacks=[])

    def one_by_one(temperatures=TEMPERATURES):
        for t in temperatures:
            head.set_weights(race.weights[-2:])
            shown = steer(race.batches(epochs), t)
            plain.fit(shown, epochs=epochs, steps_per_epoch=race.steps, shuffle=False, verbose=0)

    cached()
    one_by_one(TEMPERATURES[:1])
    return pd.DataFrame([{"plain": seconds(one_by_one), "cached": seconds(cached)} for _ in range(rounds)])


def expected_hours(seconds_per_image: dict, rate: float) -> dict:
    """Hours of training in the full profile on MHIST, on this machine and on a Colab T4.

    Each network is fine-tuned on every image 25 times (longer runs count as several); each teacher is asked once for
    each of 10 views, and so is the base that it starts from; the ensemble's are asked again. What else is asked or
    trained for hints and blended views is left out, and validation after each epoch. The T4 is taken to be faster by
    the ratio of its peak to `rate`, the operations a second of a large matrix product here: a lower bound, since small
    layers fill a GPU less well than a processor. What it would take where they do half, or a fifth, as well as here is
    given beside it: these two shares are assumed.
    """
    asked = (2 * TEACHERS + ASKED_TOGETHER) * VIEWS
    teachers = IMAGES * (TEACHERS * EPOCHS * seconds_per_image["teacher"] + asked * seconds_per_image["asking"])
    students = STUDENTS * IMAGES * EPOCHS * seconds_per_image["student"]
    here = float(teachers + students) / 3600
    bound = here * rate / T4_RATE
    return {
        "this machine": here, "Colab T4": bound,
        "Colab T4, filled half as well": 2 * bound, "Colab T4, filled a fifth as well": 5 * bound,
    }  # fmt: skip


def tuning_epoch(race: Race, rounds: int) -> pd.DataFrame:
    """Seconds of one fine-tuning epoch in each round: of the student in both ways, of the asking that the cached way
    has done before, and of the teacher's own."""
    live = race.plain(frozen=False)
    teachers = Network(models.mhist_teacher, Steered(), 2, race.size, Sizes(teacher={"logits": (2,)}))
    nothing = {"logits": np.zeros((1, len(race.split), 2), np.float32)}
    said = {"logits": race.ask(race.asked, 1)}
    ways = {
        "live": lambda: live.fit(
            steer(race.batches(1), 4.0), epochs=1, steps_per_epoch=race.steps, shuffle=False, verbose=0
        ),
        "cached": lambda: race.network.fit(
            "whole", steer(race.batches(1, said), 4.0), rate=1e-4, epochs=1, steps=race.steps, callbacks=[]
        ),
        "asking the teacher": lambda: race.ask(race.asked, 1),
        "the teacher's own": lambda: teachers.fit(
            "whole",
            race.batches(1, nothing).map(lambda batch: batch | {"alpha": 0.0, "temperature": 1.0}),
            rate=1e-5,
            epochs=1,
            steps=race.steps,
            callbacks=[],
        ),
    }
    for way in ways.values():
        way()
    return pd.DataFrame([{name: seconds(way) for name, way in ways.items()} for _ in range(rounds)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of fine-tuning after one warm-up (default 5)")
    parser.add_argument("--images", type=int, default=96, help="images of the fine-tuning epoch (default 96)")
    parser.add_argument("--sweep-rounds", type=int, default=3, help="rounds of the sweep after one warm-up (default 3)")
    parser.add_argument(
        "--sweep-images", type=int, default=IMAGES, help=f"images of each frozen epoch (default {IMAGES}: MHIST's)"
    )
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the frozen phase, each with a view of its own")
    options = parser.parse_args()
    for name, count in vars(options).items():
        if count < 1:
            parser.error(f"--{name.replace('_', '-')} is {count}; it starts at 1")
    sweep = frozen_sweep(Race(96, drawn(options.sweep_images, 96)), options.epochs, options.sweep_rounds)
    epoch = tuning_epoch(Race(224, drawn(options.images, 224)), options.rounds)
    ratios = {
        "frozen sweep, plain / cached": sweep["plain"] / sweep["cached"],
        "fine-tuning epoch, live / cached": epoch["live"] / epoch["cached"],
    }
    median = epoch.median() / options.images
    per_image = {
        "student": median["cached"],
        "asking": median["asking the teacher"],
        "teacher": median["the teacher's own"],
    }
    rate = matrix_rate()
    numbers = {
        "seconds per image": per_image, "matrix product, operations a second": rate,
        "expected hours on MHIST": expected_hours(per_image, rate),
        "sweep": sweep.to_dict("list"), "epoch": epoch.to_dict("list"),
        "ratios": {name: ratio.tolist() for name, ratio in ratios.items()},
        "images": options.images, "sweep images": options.sweep_images, "epochs": options.epochs,
        "peak memory, GiB": peak_memory(),
    }  # fmt: skip
    for name, images, table in (
        ("frozen sweep, 96 px", options.sweep_images, sweep), ("epoch, 224 px", options.images, epoch)
    ):  # fmt: skip
        print(f"\nseconds of the {name}, {images} images\n{table.agg(['min', 'median', 'max']).T.round(2).to_string()}")
    print(f"\n{pd.DataFrame(ratios).agg(['min', 'median', 'max']).T.round(2).to_string()}")
    print("\nexpected hours of the full profile on MHIST:", numbers["expected hours on MHIST"])
    source = "drawn polyps, NOT MHIST, 96 and 224 px"
    plots.store("benchmark_transfer", numbers, {"task": "benchmark", "source": source}, settings.figures)
    print(f"written: {settings.figures / 'benchmark_transfer.json'}")


if __name__ == "__main__":
    main()
