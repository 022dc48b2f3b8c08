"""How far does the student come with more epochs? `python -m benchmarks.long_student`.

Task 1's ladder (question 13) ends at 12 epochs. Here the student is trained for 40, on 20 views of each digit that are
shifted, turned, zoomed and sheared, with a falling rate and batches of 128: with the teacher of the ladder's end, by
`cid` and by `kd`, and for as long without it. Which of the three is best is read on validation, with one seed; then all
three are trained on all 60,000 digits and read on test digits, with five. So is `patient`, made for such views and such
length: it is no candidate for the best student, but `kd` is its control of equal length. Some four hours on two cores;
every finished run is recorded, so it can be interrupted and goes on where it was. Two processes with seeds of their own
can share the work, once the teacher is there.
"""

from collections.abc import Iterable

import tensorflow as tf

from benchmarks import best_student
from utils import comparison, metrics, plots, training
from utils import methods as M
from utils.data import load_mnist
from utils.models import mnist_student, mnist_teacher
from utils.runs import Run
from utils.settings import settings

SEEDS = (0, 1, 2, 3, 4)
CANDIDATES = {"cid": best_student.CID, "kd": best_student.KD, "scratch": M.Scratch()}
ARMS = CANDIDATES | {"patient": M.Patient(temperature=best_student.KD.temperature)}
LONG = {"epochs": 40, "views": 20, "view": best_student.STRONG, "schedule": "cosine", "batch_size": 128}


def places() -> dict:
    """Where records and weights lie: apart from the notebook's, whose teacher may have other weights."""
    return {"runs": settings.runs / "long_student", "cache": settings.cache / "long_student"}


def on_validation(data) -> dict[str, Run]:
    """Each candidate with one seed, trained without the validation images, as was its teacher."""
    _, teacher = best_student.teachers(data)
    return {
        name: training.train_and_evaluate(
            mnist_student, method, data, teacher=teacher, purpose="choose", title=f"{name}, on validation",
            **LONG, **places(),
        )
        for name, method in CANDIDATES.items()
    }  # fmt: skip


def better_teacher(data) -> Run:
    """The ladder's better teacher, trained on all digits."""
    return training.train_and_evaluate(
        mnist_teacher, M.Scratch(), data, epochs=best_student.EPOCHS, view=best_student.STRONG, schedule="cosine",
        title="better teacher", **places(),
    )  # fmt: skip


def on_test(data, teacher: Run, seeds: Iterable[int]) -> dict[str, list[Run]]:
    """{arm: [run of each seed]}. Without KD the teacher is only compared with."""
    teachers = dict.fromkeys(seeds, teacher)
    return {
        name: comparison.across_seeds(method, data, teachers, build_model=mnist_student, title=name, **LONG, **places())
        for name, method in ARMS.items()
    }


def judged(found: dict[str, list[Run]]) -> dict:
    """What the teacher is worth at this length, and what cid and patient are worth over kd, in points of test
    accuracy."""
    accuracy = {name: 100 * training.values(runs) for name, runs in found.items()}
    return {
        f"{name} minus {other}": metrics.paired_difference(accuracy[name], accuracy[other])
        for name, other in (("cid", "kd"), ("kd", "scratch"), ("cid", "scratch"), ("patient", "kd"))
    }


def main() -> None:
    seeds = best_student.seeds_asked(__doc__.splitlines()[0], SEEDS)
    tf.get_logger().setLevel("ERROR")  # it warns that every run traces a graph of its own, which is the intention
    data = load_mnist()
    validation = {name: 100 * run.accuracy for name, run in on_validation(data).items()}
    teacher = better_teacher(data)
    found = on_test(data, teacher, seeds)
    table, read = comparison.compare(found), judged(found)
    numbers = {
        "rows": table.rename_axis("name").reset_index().to_dict("records"), **read,
        "validation": validation, "best on validation": max(validation, key=validation.get),
        "teacher": 100 * teacher.accuracy, **{name: LONG[name] for name in ("epochs", "views", "batch_size")},
        "panels": [best_student.panel(
            f"{LONG['epochs']} epochs of {LONG['views']} views", table, found, teacher
        )],
    }  # fmt: skip
    plots.publish(
        "benchmark_long_student", plots.method_comparison, numbers,
        {"task": "benchmark", "source": data.source, "seeds": list(seeds),
         "note": "one teacher; mean and 95% interval over seeds"}, settings.figures,
    )  # fmt: skip
    print(
        comparison.shown(table)[["test accuracy, %", "errors", "against kd, points [95%]", "p, corrected"]].to_string()
    )
    for name, d in read.items():
        print(f"{name}: {d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}] points")
    print(f"on validation: {validation}; the teacher itself {100 * teacher.accuracy:.2f}")


if __name__ == "__main__":
    main()
