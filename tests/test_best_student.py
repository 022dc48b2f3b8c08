"""The ladder on validation climbs the notebook's steps, never sees a test image, and is read as it says."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import best_student
from utils.data.pipeline import View
from utils.settings import ROOT, settings


def stored(name):
    return json.loads((ROOT / f"figures/{name}.json").read_text())["numbers"]


def test_the_steps_and_settings_are_those_of_the_notebook():
    chosen = stored("task1_comparison")["settings"]
    assert repr(best_student.CID) == chosen["cid"] and repr(best_student.KD) == chosen["kd"]
    steps = {row["name"] for row in stored("task1_best_student")["rows"]}
    assert set(best_student.LADDER | best_student.CONTROLS) - steps == {"kd, all these steps"}
    source = "".join("".join(cell["source"]) for cell in json.loads((ROOT / "Task1.ipynb").read_text())["cells"])
    for name, view in (("STRONG", best_student.STRONG), ("VIEW", best_student.SHIFTS)):
        said = next(line for line in source.splitlines() if f"{name} = View(" in line)
        arguments = said.partition("View(")[2].partition(")")[0].split(", ")
        assert view == View(**{part.partition("=")[0]: float(part.partition("=")[2]) for part in arguments})


def test_every_run_chooses_and_lies_apart_from_the_notebook_s(monkeypatch):
    asked = []

    def train(build_model, method, data, teacher=None, **options):
        asked.append((build_model.__name__, method, teacher, options))
        return SimpleNamespace(name=options["title"])

    monkeypatch.setattr(best_student.training, "train_and_evaluate", train)
    found = best_student.steps(data=None, seeds=(3, 5))
    assert {options["purpose"] for *_, options in asked} == {"choose"}
    assert settings.runs not in {options["runs"] for *_, options in asked}
    assert settings.cache not in {options["cache"] for *_, options in asked}
    taught = {options["title"]: teacher and teacher.name for _, _, teacher, options in asked}
    assert taught["… and a falling rate, seed 3"] == "teacher"
    assert taught["… and a better teacher, seed 5"] == taught["kd, all these steps, seed 5"] == "better teacher"
    assert [run.name for run in found["cid"]] == ["cid, seed 3", "cid, seed 5"]
    assert set(found) == set(best_student.LADDER | best_student.CONTROLS)


def test_gains_are_between_neighbours_and_validation_stops_at_the_highest_step():
    heights = dict(zip(best_student.LADDER, (0.98, 0.985, 0.99, 0.992, 0.991, 0.9915), strict=True))
    heights |= dict(zip(best_student.CONTROLS, (0.9895, 0.97, 0.975), strict=True))
    found = {
        name: [SimpleNamespace(record={"metrics": {"accuracy": height + shift}}) for shift in (0, 0.001)]
        for name, height in heights.items()
    }
    read = best_student.judged(found)
    assert read["gained"]["cid"]["mean"] == pytest.approx(0.5)
    assert read["gained"]["… and a better teacher"]["mean"] == pytest.approx(-0.1)
    assert read["best"] == "… and a falling rate"
    assert read["last minus kd with all steps"]["mean"] == pytest.approx(0.2)
    assert read["kd with all steps minus scratch"]["mean"] == pytest.approx(1.45)
    assert read["last minus scratch"]["mean"] == pytest.approx(1.65)


@pytest.mark.parametrize("seeds", [["4"], ["1", "1", "2"]])
def test_one_seed_is_no_finding_and_none_counts_twice(monkeypatch, capsys, seeds):
    monkeypatch.setattr("sys.argv", ["best_student", "--seeds", *seeds])
    with pytest.raises(SystemExit):
        best_student.main()
    assert "one run is no finding" in capsys.readouterr().err
