"""All methods on shifted views: under one protocol, with the settings validation chose, and apart from the notebook."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import best_student, shifted_methods
from utils.settings import ROOT, settings


@pytest.fixture
def asked(monkeypatch):
    runs = []

    def train(build_model, method, data, teacher=None, **options):
        runs.append(SimpleNamespace(model=build_model.__name__, method=method, teacher=teacher, **options))
        return runs[-1]

    for module in (shifted_methods.training, shifted_methods.comparison):
        monkeypatch.setattr(module, "train_and_evaluate", train)
    return runs


def test_every_method_of_the_notebook_s_comparison_has_the_setting_that_validation_chose_there():
    comparison = json.loads((ROOT / "figures/task1_comparison.json").read_text())["numbers"]
    assert set(shifted_methods.ARMS) == {row["name"] for row in comparison["rows"]}
    chosen = {name: repr(method) for name, method in shifted_methods.ARMS.items() if name != "scratch"}
    assert chosen == comparison["settings"]


def test_all_students_are_trained_alike_under_one_plain_teacher_and_lie_apart(asked):
    trio = shifted_methods.teachers(data=None)
    assert [teacher.seed for teacher in trio] == [0, 1, 2] and not any(hasattr(t, "view") for t in trio)
    found = shifted_methods.students(None, trio, seeds=(3, 5))
    students = [run for run in asked if run.model == "mnist_student"]
    assert len(students) == 2 * len(shifted_methods.ARMS)
    assert {(run.epochs, run.view) for run in students} == {(12, best_student.SHIFTS)}
    assert not any(hasattr(run, "purpose") for run in asked)  # "report" is the default
    assert settings.runs not in {run.runs for run in asked} and settings.cache not in {run.cache for run in asked}
    assert all(run.teacher is (trio if run.method.name == "ensemble" else trio[0]) for run in students)
    assert {name: [run.seed for run in runs] for name, runs in found.items()} == {name: [3, 5] for name in found}
    assert {name: runs[0].method for name, runs in found.items()} == shifted_methods.ARMS
