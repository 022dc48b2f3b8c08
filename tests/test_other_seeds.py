"""Calibration and LIME over students: nothing that saw validation is calibrated on it, and pairs stay pairs."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from benchmarks import other_seeds
from utils import signals
from utils.data import Dataset, Split
from utils.settings import ROOT, settings


def network(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((12, 12, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])


def split(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n).astype(np.int32)
    images = (rng.integers(1, 60, (n, 12, 12, 1)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    return Split(images, labels, np.arange(n) + 100 * seed)


@pytest.fixture(scope="module")
def data():
    return Dataset("tiny", "tiny, made up", ("a", "b", "c"), split(30, 0), split(40, 1), split(50, 2))


def run_of(model):
    return SimpleNamespace(model=lambda: model)


def test_students_are_those_of_the_notebook_s_questions_and_never_saw_validation(monkeypatch):
    asked = []
    monkeypatch.setattr(
        other_seeds.comparison, "train_and_evaluate", lambda *given, **options: asked.append(options) or options["seed"]
    )
    found = other_seeds.students(None, "teacher", (3, 5))
    assert {options["purpose"] for options in asked} == {"choose"} and {o["teacher"] for o in asked} == {"teacher"}
    assert {options["runs"] for options in asked} == {settings.runs / "best_student"}
    assert found == {name: [3, 5] for name in other_seeds.ARMS}
    assert set(other_seeds.EXPLAINED) <= set(found)


def test_the_temperature_comes_from_validation_and_the_errors_from_test(data):
    model = network(0)
    found = other_seeds.calibrated(run_of(model), data)
    z = signals.predict_logits(model, data.validation.images)
    assert found["fitted T"] == pytest.approx(other_seeds.calibration.temperature_scaling(data.validation.labels, z))
    on_test = signals.predict_logits(model, data.test.images)
    error = other_seeds.metrics.calibration_error(data.test.labels, on_test)
    mended = other_seeds.metrics.calibration_error(data.test.labels, on_test / found["fitted T"])
    assert (found["error"], found["error with it"]) == (pytest.approx(100 * error), pytest.approx(100 * mended))


def test_errors_are_held_against_the_student_from_scratch_of_the_same_seed(data, monkeypatch):
    errors = {("scratch", 0): 3.0, ("scratch", 1): 5.0, ("cid", 0): 2.0, ("cid", 1): 4.5}
    monkeypatch.setattr(
        other_seeds, "calibrated", lambda run, data: {"error": errors[run], "fitted T": 1.5, "error with it": 1.0}
    )
    scratch, cid = other_seeds.calibration_rows({name: [(name, 0), (name, 1)] for name in ("scratch", "cid")}, data)
    assert scratch["error"]["mean"] == 4 and "error minus scratch" not in scratch
    assert cid["error minus scratch"]["mean"] == pytest.approx(-0.75) and list(cid["error"]["seeds"]) == [2.0, 4.5]
    assert cid["error minus scratch"]["sd"] == pytest.approx(0.5 / 2**0.5)  # of -1 and -0.5: paired by seed


def test_a_student_with_the_teacher_s_weights_has_the_teacher_s_maps(data, monkeypatch):
    teacher, explain_image = network(0), other_seeds.explain.explain_image

    def of_the_true_class(models, image, labels, **options):
        (place,) = np.flatnonzero((data.test.images == image).all(axis=(1, 2, 3)))
        assert labels == [data.test.labels[place]]
        return explain_image(models, image, labels, **options)

    monkeypatch.setattr(other_seeds.explain, "explain_image", of_the_true_class)
    found = {"kd, T = 4": [run_of(network(0)), run_of(network(0))], "scratch": [run_of(network(1)), run_of(network(2))]}
    scores = other_seeds.agreement_over_students(found, run_of(teacher), data, images=4, samples=60)
    alike = scores["rank_correlation"]
    assert alike["kd, T = 4"]["mean"] == pytest.approx(1) and alike["scratch"]["mean"] < 0.9
    assert alike["difference"]["mean"] == pytest.approx(1 - alike["scratch"]["mean"])
    assert len(alike["scratch"]["seeds"]) == 2 and scores["top_overlap"]["kd, T = 4"]["mean"] == pytest.approx(1)


def test_the_stored_figure_is_of_five_students_of_each_kind_whose_records_are_there():
    stored = json.loads((ROOT / "figures/benchmark_other_seeds.json").read_text())
    numbers, kinds = stored["numbers"], list(other_seeds.ARMS)
    assert stored["source"].startswith("MNIST") and stored["seeds"] == list(other_seeds.SEEDS)
    assert (numbers["images"], numbers["samples"]) == (other_seeds.IMAGES, other_seeds.SAMPLES)
    assert [row["name"] for row in numbers["calibration"]] == kinds
    for row in numbers["calibration"]:
        for number in ("error", "fitted T", "error with it"):
            values = row[number]["seeds"]
            assert len(values) == 5 and np.mean(values) == pytest.approx(row[number]["mean"])
    for by_arm in numbers["explanations"].values():
        one, other = (np.array(by_arm[arm]["seeds"]) for arm in other_seeds.EXPLAINED)
        assert (one - other).mean() == pytest.approx(by_arm["difference"]["mean"]) and len(one) == len(other) == 5
    records = [json.loads(path.read_text()) for path in (ROOT / "figures/runs/best_student").glob("*student-*")]
    for method in other_seeds.ARMS.values():
        found = [
            record["config"]["seed"]
            for record in records
            if record["config"]["method"] == method.name
            and record["config"]["hyperparameters"] == json.loads(json.dumps(vars(method)))
            and (record["config"]["view"], record["config"]["schedule"], record["config"]["batch_size"])
            == (None, "constant", 256)
        ]
        assert sorted(found) == list(other_seeds.SEEDS), method
