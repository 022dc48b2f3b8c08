"""What Task 1 asks of one network each, asked of five: `python -m benchmarks.other_seeds`.

The notebook fits temperatures to networks of one seed, and scores LIME's maps of another's. Here five students of each
kind are trained, on the 55,000 images of the training split and under one teacher that saw no others, so that a
temperature can be fitted on validation; then test digits are read. Calibration errors, fitted temperatures and the
agreement of each student's maps with the teacher's get intervals over students. Every finished training run is
recorded, so it can be interrupted and goes on where it was; LIME alone begins anew.
"""

import numpy as np
import tensorflow as tf

from benchmarks import best_student
from utils import calibration, comparison, explain, metrics, plots, signals
from utils import methods as M
from utils.data import Dataset, load_mnist
from utils.models import mnist_student
from utils.runs import Run
from utils.settings import settings

SEEDS = (0, 1, 2, 3, 4)
ALPHA, TEMPERATURES = 0.5, (1, 2, 4, 8, 16)
ARMS = {
    "scratch": M.Scratch(),
    **{f"kd, T = {t}": M.KD(ALPHA, float(t)) for t in TEMPERATURES},
    "cid": best_student.CID,
}
EXPLAINED = ("kd, T = 4", "scratch")
IMAGES, SAMPLES = 100, 2000  # digits that LIME explains, and samples for each, as in the notebook


def students(data: Dataset, teacher: Run, seeds) -> dict[str, list[Run]]:
    """{arm: [run of each seed]}, none of which saw a validation image. They lie with the ladder's on validation, which
    begins with some of them."""
    teachers = dict.fromkeys(seeds, teacher)
    return {
        name: comparison.across_seeds(
            method, data, teachers, build_model=mnist_student, title=name, purpose="choose", epochs=best_student.EPOCHS,
            **best_student.places(),
        )
        for name, method in ARMS.items()
    }  # fmt: skip


def calibrated(run: Run, data: Dataset) -> dict[str, float]:
    """Calibration error on test images (%), the temperature fitted on validation, and the error with it."""
    on_validation, on_test = (signals.predict_logits(run.model(), part.images) for part in (data.validation, data.test))
    fitted = calibration.temperature_scaling(data.validation.labels, on_validation)
    error, mended = (100 * metrics.calibration_error(data.test.labels, z) for z in (on_test, on_test / fitted))
    return {"error": error, "fitted T": fitted, "error with it": mended}


def calibration_rows(found: dict[str, list[Run]], data: Dataset) -> list[dict]:
    """For each arm: each number of `calibrated` with its interval over students, and, paired by seed, its difference
    from the student from scratch's."""
    measured = {name: [calibrated(run, data) for run in runs] for name, runs in found.items()}

    def of(name, number):
        return np.array([one[number] for one in measured[name]])

    return [
        {"name": name}
        | {number: metrics.mean_interval(of(name, number)) | {"seeds": of(name, number)} for number in numbers[0]}
        | ({} if name == "scratch" else {
            f"{number} minus scratch": metrics.paired_difference(of(name, number), of("scratch", number))
            for number in ("error", "error with it")
        })
        for name, numbers in measured.items()
    ]  # fmt: skip


def agreement_over_students(
    found: dict[str, list[Run]], teacher: Run, data: Dataset, images: int, samples: int
) -> dict:
    """How alike LIME ranks the segments of test digits for a student and for the teacher, as means over the same
    `images` digits: [students] for each arm of `EXPLAINED`, intervals over students and the difference, paired."""
    models = {"teacher": teacher.model()}
    models |= {(name, i): run.model() for name in EXPLAINED for i, run in enumerate(found[name])}
    drawn = np.random.default_rng(0).choice(len(data.test), images, replace=False)
    weights = {name: [] for name in models}
    for image, label in zip(data.test.images[drawn], data.test.labels[drawn], strict=True):
        explanation = explain.explain_image(
            models, image, [label], segmentation=explain.digit_segments, background=0.0, samples=samples, seed=0
        )
        for name in models:
            weights[name].append(explanation.of(name, int(label))[explanation.visible])
    scores = {}
    for score in ("rank_correlation", "top_overlap"):
        by_arm = {
            name: np.array([
                explain.agreements(weights[name, i], weights["teacher"])[score].mean() for i in range(len(found[name]))
            ])
            for name in EXPLAINED
        }  # fmt: skip
        scores[score] = {name: metrics.mean_interval(values) | {"seeds": values} for name, values in by_arm.items()}
        scores[score]["difference"] = metrics.paired_difference(*by_arm.values())
    return scores


def main() -> None:
    seeds = best_student.seeds_asked(__doc__.splitlines()[0], SEEDS)
    tf.get_logger().setLevel("ERROR")  # it warns that every run traces a graph of its own, which is the intention
    data = load_mnist()
    teacher, _ = best_student.teachers(data)
    found = students(data, teacher, seeds)
    rows = calibration_rows(found, data)
    explained = agreement_over_students(found, teacher, data, IMAGES, SAMPLES)
    plots.publish(
        "benchmark_other_seeds", plots.over_students,
        {"calibration": rows, "teacher": calibrated(teacher, data), "explanations": explained,
         "images": IMAGES, "samples": SAMPLES},
        {"task": "benchmark", "source": data.source, "seeds": list(seeds),
         "note": "one teacher; mean and 95% interval over students; test digits"}, settings.figures,
    )  # fmt: skip
    for row in rows:
        print(f"{row['name']:10}", *(
            f"{number} {row[number]['mean']:.2f} [{row[number]['low']:.2f}, {row[number]['high']:.2f}]"
            for number in ("error", "fitted T", "error with it")
        ), sep="  ")  # fmt: skip
    for score, by_arm in explained.items():
        print(score, *(f"{name} {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]" for name, d in by_arm.items()))


if __name__ == "__main__":
    main()
