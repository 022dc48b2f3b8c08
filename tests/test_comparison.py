"""Choosing on validation, and the table that compares methods over seeds."""

from dataclasses import replace

import numpy as np
import pytest

from tests.test_training import tiny_data, tiny_model
from utils import comparison, metrics, training
from utils.data import Split
from utils.methods import KD, Scratch, SubclassTeacher
from utils.runs import Run


def made_up(accuracies, monkeypatch):
    def train(build_model, method, data, *, purpose, seed, **options):
        assert purpose == "choose"
        return Run({"config": {}, "metrics": {"accuracy": accuracies[method.alpha]}}, None, None, None, None)

    monkeypatch.setattr(comparison, "train_and_evaluate", train)


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    # 12 validation images: one standard error at 0.9 is 0.087
    [({0.1: 0.9, 0.5: 0.95}, 0.1), ({0.1: 0.7, 0.5: 0.9}, 0.5), ({0.1: 0.5, 0.5: 0.9, 0.9: 0.95}, 0.9)],
)
def test_the_first_setting_stays_unless_another_is_better_than_the_noise(accuracies, chosen, monkeypatch):
    made_up(accuracies, monkeypatch)
    settings = [KD(alpha) for alpha in accuracies]
    best, found = comparison.choose(settings, tiny_data(), None, build_model=tiny_model, seeds=(0, 1))
    assert best.alpha == chosen and [(m.alpha, a) for m, a in found] == list(accuracies.items())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    options = {"epochs": 2, "batch_size": 16, "runs": folder, "cache": folder / "cache", "build_model": tiny_model}
    data = tiny_data()
    teachers = {
        seed: training.train_and_evaluate(
            options["build_model"], Scratch(), data, seed=seed, epochs=4, runs=folder, cache=folder / "cache"
        )
        for seed in (0, 1, 2)
    }
    methods = {"kd": KD(), "hot": KD(temperature=20.0), "scratch": Scratch()}
    return {name: comparison.across_seeds(method, data, teachers, **options) for name, method in methods.items()}


def test_the_table_is_sorted_paired_with_the_reference_and_complete(runs):
    table = comparison.compare(runs)
    assert set(table.index) == set(runs) and list(table["accuracy"]) == sorted(table["accuracy"], reverse=True)
    assert table.loc["kd", "difference"] == 0 and not table.loc["kd", "tie"]
    difference = 100 * (training.values(runs["hot"]) - training.values(runs["kd"]))
    assert table.loc["hot", "difference"] == pytest.approx(difference.mean())
    assert table.loc["hot", "errors"] == pytest.approx(
        np.mean([run.record["metrics"]["errors"] for run in runs["hot"]])
    )
    model = tiny_model()
    assert (table["parameters"] == model.count_params()).all() and (table["FLOPs"] > 0).all()


def made_up_runs(accuracies):
    measured = {"errors": 1, "agreement": 1.0, "kl_to_teacher": 0.0, "calibration_error": 0.0}
    records = [
        {"config": {"seed": seed}, "metrics": measured | {"accuracy": accuracy}, "training_seconds": 1.0}
        for seed, accuracy in enumerate(accuracies)
    ]
    return [Run(record, weights=None, build_model=None, make_model=tiny_model, retrain=None) for record in records]


def test_a_difference_inside_the_noise_is_a_tie():
    runs = {"kd": [0.90, 0.91, 0.92], "same": [0.91, 0.90, 0.925], "better": [0.95, 0.962, 0.97]}
    table = comparison.compare({name: made_up_runs(accuracies) for name, accuracies in runs.items()})
    assert list(table.index) == ["better", "same", "kd"]
    assert table.loc["same", "tie"] and not table.loc["better", "tie"] and table.loc["better", "p"] < 0.05


def test_the_table_for_reading_has_intervals_and_names_ties():
    runs = {"kd": [0.90, 0.91, 0.92], "same": [0.91, 0.90, 0.925]}
    shown = comparison.shown(comparison.compare({name: made_up_runs(a) for name, a in runs.items()}))
    assert shown.loc["same", "against kd, points [95%]"].startswith("+0.17 [-2.")
    assert shown.loc["same", ""] == "tie with kd" and shown.loc["kd", "p, corrected"] == ""
    assert shown.loc["kd", "against kd, points [95%]"] == ""
    assert shown.loc["kd", "test accuracy, %"] == "91.00 ± 1.00"


def test_a_gain_in_words_names_the_noise():
    better, reference = made_up_runs([0.98, 0.991, 0.985]), made_up_runs([0.97, 0.98, 0.975])
    assert comparison.gain(better, reference) == "+1.03 [+0.89, +1.18]"
    assert comparison.gain(made_up_runs([0.97, 0.99, 0.97]), reference) == "+0.17 [-1.73, +2.06], inside the noise"


def test_a_single_setting_is_no_choice(monkeypatch):
    monkeypatch.setattr(comparison, "train_and_evaluate", lambda *a, **k: pytest.fail("trained"))
    found = comparison.choose([KD(0.3)], tiny_data(), None, build_model=tiny_model, seeds=(0,))
    assert found == (KD(0.3), [])


def test_runs_of_other_seeds_are_no_pairs(runs):
    with pytest.raises(ValueError, match="different seeds"):
        comparison.compare({"kd": runs["kd"], "hot": runs["hot"][:2]})


def test_without_its_reference_nothing_is_compared(runs):
    with pytest.raises(ValueError, match="'kd' is not among the runs"):
        comparison.compare({"hot": runs["hot"]})


def test_a_difference_without_any_spread_claims_nothing():
    runs = {"kd": [0.90, 0.91, 0.92], "shifted": [0.95, 0.96, 0.97]}
    table = comparison.compare({name: made_up_runs(accuracies) for name, accuracies in runs.items()})
    assert np.isnan(table.loc["shifted", "p"]) and table.loc["shifted", "tie"]


def test_the_cost_counts_each_teacher_once(runs):
    student, teacher = runs["kd"][0], runs["kd"][0].teacher
    own = student.record["training_seconds"]
    assert comparison.training_seconds(student) == pytest.approx(own + teacher.record["training_seconds"])
    scratch = runs["scratch"][0]  # which is only compared with a teacher
    assert comparison.training_seconds(scratch) == scratch.record["training_seconds"]
    assert comparison.training_seconds((student, student, teacher)) == comparison.training_seconds(student)
    assert comparison.training_seconds(tiny_model()) == comparison.training_seconds(None) == 0


def test_p_values_are_corrected_over_those_that_exist():
    found = comparison.corrected({"a": 0.01, "b": 0.04, "c": float("nan")})
    assert found["a"] == pytest.approx(0.02) and found["b"] == pytest.approx(0.04) and np.isnan(found["c"])
    assert comparison.corrected({}) == {}


def test_a_small_p_value_is_not_zero():
    assert [comparison.p_in_words(p) for p in (0.0241, 0.0005, 0.0004)] == ["= 0.024", "= 0.001", "< 0.001"]


def test_invented_subclasses_are_measured_once_for_the_same_weights(tmp_path, monkeypatch):
    folders = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    teacher = training.train_and_evaluate(tiny_model, SubclassTeacher(2), tiny_data(), epochs=2, **folders)
    images = tiny_data().test.images
    invented = comparison.invented_subclasses(teacher.model(), images)
    assert invented.shape == (15,) and set(invented) <= set(range(6))
    classes = teacher.model().predict(images / np.float32(255), verbose=0).argmax(-1)
    assert np.mean(invented // 2 == classes) > 0.6  # the highest subclass is mostly one of the likeliest class
    split = Split(images, classes.astype(np.int32), subclasses=invented)
    perfect = {"purity": 1.0, "mutual_information": 1.0}
    assert comparison.subclass_alignment(teacher, split, folders["runs"]) == perfect

    monkeypatch.setattr(Run, "model", lambda run: pytest.fail("the weights were asked for"))
    assert comparison.subclass_alignment(teacher, split, folders["runs"]) == perfect
    monkeypatch.undo()
    unlike = replace(split, subclasses=np.zeros(15, np.int32))
    expected = metrics.subclass_alignment(unlike.subclasses, invented)
    assert comparison.subclass_alignment(teacher, unlike, folders["runs"]) == expected != perfect


def test_other_weights_are_measured_anew(tmp_path):
    folders = {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}
    teachers = [
        training.train_and_evaluate(tiny_model, SubclassTeacher(2), tiny_data(), epochs=epochs, **folders)
        for epochs in (1, 6)
    ]
    images = tiny_data().test.images
    known = comparison.invented_subclasses(teachers[0].model(), images)
    split = Split(images, tiny_data().test.labels, subclasses=known)
    first, second = (comparison.subclass_alignment(teacher, split, folders["runs"]) for teacher in teachers)
    assert first["purity"] == 1.0 > second["purity"]


def test_costs_are_in_those_of_the_reference_and_shares_in_percent():
    runs = {"kd": made_up_runs([0.90, 0.91, 0.92]), "dear": made_up_runs([0.91, 0.92, 0.935])}
    for run in runs["dear"]:
        run.record["training_seconds"] = 3.0
        run.record["metrics"] |= {"agreement": 0.9, "calibration_error": 0.02, "kl_to_teacher": 0.3}
    table = comparison.compare(runs)
    columns = ["cost", "agreement", "calibration error", "KL to teacher"]
    assert table.loc["dear", columns].tolist() == pytest.approx([3.0, 90.0, 2.0, 0.3])
    assert table.loc["kd", columns].tolist() == pytest.approx([1.0, 100.0, 0.0, 0.0])
