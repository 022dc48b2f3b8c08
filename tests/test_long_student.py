"""The long training chooses without test images, pairs its arms by seed, and is read as it says."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import best_student, long_student
from utils.settings import ROOT, settings


def test_the_choice_sees_no_test_image_nor_a_teacher_that_saw_validation(asked):
    long_student.on_validation(data=None)
    assert {run.purpose for run in asked} == {"choose"}
    arms = [run for run in asked if run.model == "mnist_student"]
    assert {run.teacher.title for run in arms} == {"better teacher"} and {run.epochs for run in arms} == {40}
    assert [run.method for run in arms] == list(long_student.CANDIDATES.values())


def test_patient_has_a_control_that_differs_in_the_labels_alone():
    """KD with alpha = 1 is patient's loss, so what the two are compared for is the half that labels have in KD."""
    patient, control = long_student.ARMS["patient"], long_student.ARMS["kd"]
    assert patient.temperature == control.temperature and control.alpha == 0.5
    assert "patient" not in long_student.CANDIDATES


def test_all_arms_are_trained_alike_and_lie_apart_from_the_notebook_s(asked):
    teacher = long_student.better_teacher(data=None)
    found = long_student.on_test(None, teacher, seeds=(3, 5))
    assert teacher.view == best_student.STRONG and teacher.epochs == 12
    assert settings.runs not in {run.runs for run in asked} and settings.cache not in {run.cache for run in asked}
    assert not any(hasattr(run, "purpose") for run in asked)  # "report" is the default
    students = asked[1:]
    alike = {(run.epochs, run.views, run.view, run.schedule, run.batch_size) for run in students}
    assert alike == {(40, 20, best_student.STRONG, "cosine", 128)}
    assert all(run.teacher is teacher for run in students)
    assert {name: [run.seed for run in runs] for name, runs in found.items()} == {name: [3, 5] for name in found}
    assert {name: runs[0].method for name, runs in found.items()} == long_student.ARMS


def test_differences_are_paired_and_have_the_sign_they_say():
    heights = {"cid": (0.995, 0.996), "kd": (0.994, 0.9945), "scratch": (0.993, 0.9935), "patient": (0.9938, 0.9945)}
    found = {
        name: [SimpleNamespace(record={"metrics": {"accuracy": value}}) for value in values]
        for name, values in heights.items()
    }
    read = long_student.judged(found)
    assert read["cid minus kd"]["mean"] == pytest.approx(0.125)
    assert read["kd minus scratch"]["mean"] == pytest.approx(0.1)
    assert read["cid minus scratch"]["mean"] == pytest.approx(0.225)
    assert read["patient minus kd"]["mean"] == pytest.approx(-0.01)


def test_the_stored_student_is_as_good_as_is_told_and_the_runs_behind_it_are_there():
    stored = json.loads((ROOT / "figures/benchmark_long_student.json").read_text())["numbers"]
    rows = {row["name"]: row for row in stored["rows"]}
    assert rows["cid"]["accuracy"] >= 99.45 and stored["best on validation"] == "cid"
    records = [
        json.loads(path.read_text()) for path in (ROOT / "figures/runs/long_student").glob("*student-*-report-*")
    ]
    for name, row in rows.items():
        found = [r["metrics"]["accuracy"] for r in records if r["config"]["method"] == name]
        assert len(found) == 5 and 100 * sum(found) / 5 == pytest.approx(row["accuracy"])
