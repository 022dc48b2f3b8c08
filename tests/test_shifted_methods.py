"""Every method on shifted views: one protocol, with the settings validation chose, and apart from the notebook."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import best_student, shifted_methods
from utils.settings import ROOT, settings


def stored(name):
    return json.loads((ROOT / f"figures/{name}.json").read_text())


def test_methods_and_settings_are_those_of_the_notebook_s_comparison():
    comparison = stored("task1_comparison")["numbers"]
    assert set(shifted_methods.ARMS) == {row["name"] for row in comparison["rows"]}
    chosen = {name: repr(method) for name, method in shifted_methods.ARMS.items() if name != "scratch"}
    assert chosen == comparison["settings"]


def test_all_students_are_trained_alike_under_the_same_plain_teachers_and_lie_apart(asked):
    teachers = shifted_methods.plain_teachers(data=None)
    assert [(teacher.model, teacher.seed) for teacher in teachers] == [("mnist_teacher", seed) for seed in range(3)]
    assert not any(hasattr(teacher, "view") or hasattr(teacher, "schedule") for teacher in teachers)
    found = shifted_methods.students(None, teachers, seeds=(3, 5))
    students = asked[3:]
    assert len(students) == 2 * len(shifted_methods.ARMS) and {run.model for run in students} == {"mnist_student"}
    assert all((run.epochs, run.view) == (12, best_student.SHIFTS) for run in students)
    assert [run.method for run in students if run.teacher != teachers[0]] == 2 * [shifted_methods.ARMS["ensemble"]]
    assert all(run.teacher == teachers for run in found["ensemble"])
    assert not any(hasattr(run, "purpose") for run in asked)  # "report" is the default
    assert settings.runs not in {run.runs for run in asked} and settings.cache not in {run.cache for run in asked}
    assert {name: [run.seed for run in runs] for name, runs in found.items()} == {name: [3, 5] for name in found}
    assert {name: runs[0].method for name, runs in found.items()} == shifted_methods.ARMS


def test_orders_are_compared_by_name_and_without_kd_and_the_student_alone():
    table = pd.DataFrame({"difference": {"cid": 0.3, "kd": 0.0, "rkd": 0.1, "dist": -0.2, "scratch": -9.0}})
    other = pd.DataFrame({"difference": {"dist": -0.1, "scratch": 7.0, "cid": 0.2, "rkd": 0.1, "kd": 0.0}})
    found = shifted_methods.order_kept(table, other)
    assert found["rho"] == pytest.approx(1) and found["methods"] == 3
    assert shifted_methods.order_kept(table, -other)["rho"] == pytest.approx(-1)


def test_the_stored_table_is_of_records_that_are_there():
    file = stored("benchmark_shifted_methods")
    numbers, rows = file["numbers"], {row["name"]: row for row in file["numbers"]["rows"]}
    assert file["source"].startswith("MNIST") and file["seeds"] == list(shifted_methods.SEEDS)
    assert set(rows) == set(shifted_methods.ARMS)
    records = [json.loads(path.read_text()) for path in (ROOT / "figures/runs/shifted_methods").glob("*.json")]
    (teacher,) = [
        record for record in records if record["config"]["model"] == "mnist_teacher"
        and record["config"]["method"] == "scratch" and record["config"]["seed"] == 0
    ]  # fmt: skip
    assert numbers["teacher"] == pytest.approx(100 * teacher["metrics"]["accuracy"])
    accuracy = {}
    for record in records:
        config = record["config"]
        if config["model"] == "mnist_student":
            assert config["view"] == repr(best_student.SHIFTS) and config["purpose"] == "report"
            accuracy[config["method"], config["seed"]] = 100 * record["metrics"]["accuracy"]
    of = {name: np.array([accuracy[name, seed] for seed in shifted_methods.SEEDS]) for name in rows}
    for name, row in rows.items():
        assert row["accuracy"] == pytest.approx(of[name].mean())
        assert row["difference"] == pytest.approx((of[name] - of["kd"]).mean())
