"""Would validation have taken each step to the best student? `python -m benchmarks.best_student`.

Task 1 ends its comparison with a ladder to the best student of 12 epochs (question 13), whose steps were read on test
images first. Here the same steps, their controls, and one that the ladder lacks, KD with all of them, are trained on
the 55,000 images of the training split and read on the 5,000 of validation: no test image has a part in it. Teachers
and students are trained anew, for they must not have seen the validation images; their records lie in a folder of their
own. Some two hours on two cores; every finished run is recorded, so it can be interrupted and goes on where it was.
"""

import argparse
from collections.abc import Iterable
from functools import partial
from itertools import pairwise

import tensorflow as tf

from utils import comparison, metrics, plots, training
from utils import methods as M
from utils.data import load_mnist
from utils.data.pipeline import View
from utils.models import mnist_student, mnist_teacher
from utils.runs import Run
from utils.settings import settings

EPOCHS, SEEDS = 12, (0, 1, 2, 3)
SHIFTS = View(shift=2.0, rotation=0.0, zoom=0.0)
STRONG = View(shift=2.0, rotation=10.0, zoom=0.1, shear=10.0)
# The settings that validation chose in Task 1 among four each.
CID, KD = M.CID(sample_weight=10.0, class_weight=1.0), M.KD(0.5, 4.0)
FALLING = {"view": SHIFTS, "schedule": "cosine"}
SMALLER = FALLING | {"batch_size": 128}
# name: (method, whether the better teacher teaches, how it is trained); each on top of the one before
LADDER = {
    "kd": (KD, False, {}),
    "cid": (CID, False, {}),
    "cid, shifted views": (CID, False, {"view": SHIFTS}),
    "… and a falling rate": (CID, False, FALLING),
    "… and a better teacher": (CID, True, FALLING),
    "… and batches of 128": (CID, True, SMALLER),
}
CONTROLS = {
    "kd, all these steps": (KD, True, SMALLER),
    "scratch, views and falling rate": (M.Scratch(), False, FALLING),
    "scratch, the same in batches of 128": (M.Scratch(), False, SMALLER),
}


def places() -> dict:
    """Where records and weights lie: apart from the notebook's, whose teacher may have other weights."""
    return {"runs": settings.runs / "best_student", "cache": settings.cache / "best_student"}


def teachers(data) -> tuple[Run, Run]:
    """The teacher of the comparison and the better one, neither of which has seen the validation images."""
    train = partial(training.train_and_evaluate, mnist_teacher, M.Scratch(), data, purpose="choose", epochs=EPOCHS)
    return (
        train(title="teacher", **places()),
        train(view=STRONG, schedule="cosine", title="better teacher", **places()),
    )


def steps(data, seeds: Iterable[int]) -> dict[str, list[Run]]:
    """{name: [run of each seed]} of the ladder and its controls, seed by seed."""
    plain, better = teachers(data)
    found = {name: [] for name in LADDER | CONTROLS}
    for seed in seeds:
        for name, (method, with_better, options) in (LADDER | CONTROLS).items():
            found[name].append(training.train_and_evaluate(
                mnist_student, method, data, teacher=better if with_better else plain, seed=seed, purpose="choose",
                epochs=EPOCHS, title=f"{name}, seed {seed}", **places(), **options,
            ))  # fmt: skip
    return found


def judged(found: dict[str, list[Run]]) -> dict:
    """Each step's gain over the one before and what the controls say, in points of validation accuracy; and the step
    at which validation would have stopped, the one with the highest mean."""
    accuracy = {name: 100 * training.values(runs) for name, runs in found.items()}

    def minus(name, other):
        return metrics.paired_difference(accuracy[name], accuracy[other])

    *_, last = LADDER
    kd, *controls = CONTROLS
    return {
        "gained": {name: minus(name, before) for before, name in pairwise(LADDER)},
        "best": max(LADDER, key=lambda name: accuracy[name].mean()),
        "last minus kd with all steps": minus(last, kd),
        "kd with all steps minus scratch": minus(kd, controls[-1]),
        "last minus scratch": minus(last, controls[-1]),
    }


def seeds_asked(description: str, default: tuple[int, ...]) -> list[int]:
    """The seeds of the command line; it is refused where they are no finding."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, nargs="+", default=default, help=f"(default {default})")
    seeds = parser.parse_args().seeds
    if min(seeds) < 0 or not 2 <= len(seeds) == len(set(seeds)):
        parser.error(f"--seeds are at least two numbers from 0, each once, not {seeds}: one run is no finding.")
    return seeds


def panel(title: str, table, found: dict[str, list[Run]], teacher: Run) -> dict:
    """What `plots.method_comparison` draws of a table that `comparison.compare` made of runs under one teacher."""
    return {
        "title": title,
        "teacher": dict.fromkeys(("mean", "low", "high"), 100 * teacher.accuracy),
        "rows": [
            {"name": name, "mean": row["accuracy"], "low": row["low"], "high": row["high"], "tie": bool(row["tie"]),
             "seeds": (100 * training.values(found[name])).tolist()}
            for name, row in table.iterrows()
        ],
    }  # fmt: skip


def main() -> None:
    seeds = seeds_asked(__doc__.splitlines()[0], SEEDS)
    tf.get_logger().setLevel("ERROR")  # it warns that every run traces a graph of its own, which is the intention
    data = load_mnist()
    found = steps(data, seeds)
    table = comparison.compare(found).loc[list(found)]
    read = judged(found)
    plain, better = teachers(data)
    numbers = {
        "rows": table.rename_axis("name").reset_index().to_dict("records"), **read,
        "teacher": 100 * plain.accuracy, "better teacher": 100 * better.accuracy, "images": len(data.validation),
        "panels": [panel("the same steps, on validation", table, found, plain)],
        "unit": "validation accuracy, %",
    }  # fmt: skip
    plots.publish(
        "benchmark_best_student", plots.method_comparison, numbers,
        {"task": "benchmark", "source": data.source, "seeds": list(seeds),
         "note": f"{len(data.validation):,} validation images; mean and 95% interval over seeds"}, settings.figures,
    )  # fmt: skip
    print(comparison.shown(table)[["test accuracy, %", "errors", "against kd, points [95%]", "p, corrected"]]
          .rename(columns={"test accuracy, %": "validation accuracy, %"}).to_string())  # fmt: skip
    for name, d in [*read["gained"].items(), *((k, v) for k, v in read.items() if " minus " in k)]:
        print(f"{name}: {d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}] points")
    print(f"highest on validation: {read['best']}")


if __name__ == "__main__":
    main()
