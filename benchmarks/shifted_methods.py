"""Every method on shifted views, under one teacher: `python -m benchmarks.shifted_methods`.

Task 1 compares all methods on the images as they are, and five of them on shifted views, each seed under a teacher of
its own. Here all of them are trained on the same shifted views, with the settings that validation chose in Task 1,
under one plain teacher, so that intervals are over students; `ensemble` has two more beside it, and `takd`, `subclass`
and `sftn` make a teacher of their own first, once for all seeds. Some five hours on two cores; every finished run is
recorded, so it can be interrupted and goes on where it was.
"""

from collections.abc import Iterable

import pandas as pd
import tensorflow as tf
from scipy import stats

from benchmarks import best_student
from utils import comparison, plots, results, training
from utils import methods as M
from utils.data import load_mnist
from utils.models import mnist_student, mnist_teacher
from utils.runs import Run
from utils.settings import settings

SEEDS = (0, 1, 2, 3, 4)
# The settings that validation chose in Task 1 (`settings` in figures/task1_comparison.json).
ARMS = {
    "scratch": M.Scratch(),
    "kd": best_student.KD,
    "cid": best_student.CID,
    "fitnets": M.FitNets(hint_epochs=3),
    "rkd": M.RKD(alpha=0.5, temperature=4.0),
    "dkd": M.DKD(beta=8.0),
    "dist": M.DIST(weight=0.5, temperature=4.0),
    "lskd": M.LSKD(),
    "extractive": M.Extractive(),
    "patient": M.Patient(temperature=4.0),
    "eskd": M.ESKD(0.5, 4.0, stop_after=9),
    "crd": M.CRD(),
    "takd": M.TAKD(0.5, 4.0),
    "subclass": M.Subclass(5),
    "sftn": M.SFTN(0.5, 4.0),
    "ensemble": M.Ensemble(0.5, 4.0),
}


def places() -> dict:
    """Where records and weights lie: apart from the notebook's, whose teachers may have other weights."""
    return {"runs": settings.runs / "shifted_methods", "cache": settings.cache / "shifted_methods"}


def plain_teachers(data) -> tuple[Run, Run, Run]:
    """The teacher of all and the two that `ensemble` adds to it, each trained on all digits as they are."""
    return tuple(
        training.train_and_evaluate(
            mnist_teacher, M.Scratch(), data, seed=seed, epochs=best_student.EPOCHS, title=f"teacher {seed}", **places()
        )
        for seed in range(3)
    )


def students(data, teachers: tuple[Run, ...], seeds: Iterable[int]) -> dict[str, list[Run]]:
    """{arm: [run of each seed]}. From scratch the teacher is only compared with."""
    return {
        name: comparison.across_seeds(
            method, data, dict.fromkeys(seeds, teachers if method.several_teachers else teachers[0]),
            build_model=mnist_student, title=name, view=best_student.SHIFTS, epochs=best_student.EPOCHS, **places(),
        )
        for name, method in ARMS.items()
    }  # fmt: skip


def order_kept(table: pd.DataFrame, before: pd.DataFrame) -> dict:
    """Spearman's rank correlation of what the methods gain over KD in two tables of `comparison.compare`."""
    names = [name for name in table.index if name not in ("kd", "scratch")]
    found = stats.spearmanr(*(of.loc[names, "difference"].astype(float) for of in (table, before)))
    return {"rho": float(found.statistic), "p": float(found.pvalue), "methods": len(names)}


def main() -> None:
    seeds = best_student.seeds_asked(__doc__.splitlines()[0], SEEDS)
    tf.get_logger().setLevel("ERROR")  # it warns that every run traces a graph of its own, which is the intention
    data = load_mnist()
    teachers = plain_teachers(data)
    found = students(data, teachers, seeds)
    table = comparison.compare(found)
    as_they_are = results.read_json(settings.figures / "task1_comparison.json")["numbers"]["rows"]
    numbers = {
        "rows": table.rename_axis("name").reset_index().to_dict("records"), "teacher": 100 * teachers[0].accuracy,
        "order": order_kept(table, pd.DataFrame(as_they_are).set_index("name")),
        "panels": [best_student.panel("shifted views, one teacher", table, found, teachers[0])],
    }  # fmt: skip
    plots.publish(
        "benchmark_shifted_methods", plots.method_comparison, numbers,
        {"task": "benchmark", "source": data.source, "seeds": list(seeds),
         "note": "12 epochs, one teacher (ensemble: three); mean and 95% interval over seeds"}, settings.figures,
    )  # fmt: skip
    print(comparison.shown(table).iloc[:, :5].to_string())
    print("rank correlation with the gains on the images as they are: {rho:+.2f}, p {p:.3f}".format(**numbers["order"]))


if __name__ == "__main__":
    main()
