"""Every figure is drawn, saved with its numbers, and says where they come from."""

import json

import matplotlib
import numpy as np
import pytest
from PIL import Image

from utils import models, plots

matplotlib.use("agg")
ORIGIN = {"task": "task1", "source": "made for tests", "seeds": [0, 1, 2], "note": "a note"}
T = [1, 4, 64]
INTERVAL = {"mean": 0.5, "low": 0.2, "high": 0.8, "outside_noise": True}
FIGURES = {
    "digits": {"images": np.zeros((2, 3, 5, 5)), "rows": ["a", "b"], "columns": ["1", "2", "3"]},
    "gradient_norms": {"temperatures": T, "with_t2": [1, 2, 3], "without_t2": [1, 0.1, 0.01], "cross_entropy": 1.0},
    "learning_curves": {
        "panels": [{"title": "t", "unit": "nats", "lines": [{"label": "l", "values": [[3, 2, 1], [3, 2, 2]]}]}]
    },
    "search_heatmap": {"alphas": [0.1, 0.9], "temperatures": T, "accuracy": [[0.9] * 3, [0.8] * 3], "chosen": [0.9, 4]},
    "temperature_curve": {
        "temperatures": T,
        "distilled": [[0.9, 0.91, 0.92], [0.9, 0.92, 0.91]],
        "teacher": [0.99, 0.98],
        "scratch": [0.8, 0.81],
    },
    "soft_targets": {
        "temperatures": T,
        "images": [{"pixels": np.zeros((4, 4)), "title": "x", "label": 1, "probabilities": [[0.2, 0.8]] * 3}],
    },
    "target_entropy": {"temperatures": T, "quantiles": np.sort(np.random.default_rng(0).random((3, 5))), "most": 3.3},
    "paired_runs": {
        "panels": [{"title": "t", "scratch": [0.8, 0.9], "distilled": [0.9, 0.95], "difference": INTERVAL}]
    },
    "recall_gain": {"classes": ["a", "b"], "gains": [INTERVAL, INTERVAL | {"outside_noise": False}]},
    "cost_by_layer": {
        "networks": [{"name": "n", "rows": [{"layer": "fc", "parameters": 10, "flops": 20}]}],
        "quantities": {"parameters": "parameters", "flops": "FLOPs", "multiply_adds": "multiply-adds"},
    },
}
METHOD = {"name": "dkd", "seeds": [98.7, 98.9], "mean": 98.8, "low": 98.6, "high": 99.0, "tie": True}
FIGURES |= {
    "method_comparison": {
        "panels": [
            {"title": "t", "rows": [METHOD, METHOD | {"name": "kd"}, METHOD | {"name": "scratch", "tie": False}],
             "teacher": {"mean": 99.3, "low": 99.2, "high": 99.4}}
        ]
    },
    "gain_against_cost": {"rows": [{"name": "dkd", "cost": 1.2, "gain": 0.1, "low": 0.0, "high": 0.2, "tie": True}]},
    "features": {
        "classes": ["a", "b"], "labels": [0, 1, 1], "networks": [{"title": "n", "points": [[0, 1], [1, 0], [1, 1]]}]
    },
    "learning_curves_of_methods": {"curves": {"kd": [3, 2, 1], "dkd": [3, 2, 0.5]}},
    "over_students": {
        "calibration": [{"name": n, "error": METHOD, "error with it": METHOD} for n in ("scratch", "kd, T = 4")],
        "teacher": {"error": 0.4, "error with it": 0.2},
        "explanations": {"rank_correlation": {"kd, T = 4": METHOD, "scratch": METHOD, "difference": INTERVAL}},
    },
}  # fmt: skip
FIGURES["cost_by_layer"]["networks"][0]["rows"][0]["multiply_adds"] = 5


def texts_of(figure):
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_saved_with_its_numbers_and_origin(name, tmp_path):
    figure = plots.publish(name, getattr(plots, name), FIGURES[name], ORIGIN, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}.json", f"{name}.png"]
    with Image.open(tmp_path / f"{name}.png") as image:
        assert round(image.info["dpi"][0]) >= 150
    stored = json.loads((tmp_path / f"{name}.json").read_text())
    assert set(stored["numbers"]) == set(FIGURES[name]) and stored["source"] == "made for tests"
    assert stored["profile"] in ("quick", "full") and stored["versions"]["tensorflow"]
    (caption,) = [t for t in texts_of(figure) if "made for tests" in t]
    assert "profile" in caption and "3 seeds" in caption and "a note" in caption


WITHOUT = {"digits", "soft_targets", "paired_runs", "cost_by_layer", "method_comparison", "learning_curves_of_methods"}
WITHOUT |= {"over_students"}


@pytest.mark.parametrize("name", sorted(set(FIGURES) - WITHOUT))  # shared axes, or names in the place of numbers
def test_axes_with_numbers_are_named(name, tmp_path):
    figure = plots.publish(name, getattr(plots, name), FIGURES[name], ORIGIN, tmp_path)
    assert figure.axes[0].get_xlabel() and all(ax.get_ylabel() for ax in figure.axes)


def test_of_each_kind_of_student_all_seeds_are_drawn_and_the_difference_is_no_row():
    figure = plots.over_students(FIGURES["over_students"], "caption")
    left, right = figure.axes
    ticks = [line for line in left.lines if line.get_marker() == "|"]
    assert [list(line.get_xdata()) for line in ticks] == [METHOD["seeds"]] * 4
    assert [label.get_text() for label in right.get_yticklabels()] == ["scratch", "kd, T = 4"]
    assert sum(line.get_linestyle() == ":" for line in left.lines) == 2  # the teacher, as it is and mended


# The same figures for a score that is no accuracy.
WITH_AUC = {
    "search_heatmap": {
        "alphas": [0.1, 0.9], "temperatures": T, "auc": [[0.7, np.nan, 0.5], [0.8] * 3], "chosen": [0.9, 4]
    },
    "method_comparison": {"unit": "test AUC", "panels": [{
        "title": "all", "reference": "KD", "teacher": {"mean": 0.9, "low": 0.8, "high": 1.0},
        "rows": [
            {"name": name, "seeds": [0.6, 0.7], "mean": 0.65, "low": 0.5, "high": 0.8, "tie": name == "RKD"}
            for name in ("KD", "RKD")
        ],
    }]},
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_AUC)
def test_a_score_that_is_no_accuracy_is_named_and_drawn_again_from_what_was_stored(name, tmp_path):
    figure = plots.publish(name, getattr(plots, name), WITH_AUC[name], ORIGIN, tmp_path)
    said = texts_of(figure)
    assert any("AUC" in text for text in said) and not any("accuracy" in text for text in said)
    plots.redraw(json.loads((tmp_path / f"{name}.json").read_text()), tmp_path / "again.png")
    with Image.open(tmp_path / f"{name}.png") as first, Image.open(tmp_path / "again.png") as again:
        np.testing.assert_array_equal(np.asarray(first), np.asarray(again))


def test_a_figure_is_drawn_again_from_what_was_stored(tmp_path):
    plots.publish("t", plots.temperature_curve, FIGURES["temperature_curve"], ORIGIN, tmp_path)
    stored = json.loads((tmp_path / "t.json").read_text())
    plots.redraw(stored, tmp_path / "again.png")
    with Image.open(tmp_path / "t.png") as first, Image.open(tmp_path / "again.png") as again:
        np.testing.assert_array_equal(np.asarray(first), np.asarray(again))
    plots.redraw(stored, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text().startswith("<?xml")
    with pytest.raises(ValueError, match="drawn_by is 'draw'"):
        plots.redraw(stored | {"drawn_by": "draw"}, tmp_path / "none.png")


def test_a_table_is_stored_with_the_run_it_came_from(tmp_path):
    content = plots.store("table", {"rows": [np.float32(1.5)]}, ORIGIN, tmp_path)
    assert content == json.loads((tmp_path / "table.json").read_text())
    assert content["numbers"] == {"rows": [1.5]} and content["source"] == "made for tests"
    figure = json.loads((tmp_path / "table.json").read_text())
    assert figure["run"] == plots.RUN and figure["profile"] in ("quick", "full")


def test_the_band_is_the_interval_over_seeds(tmp_path):
    figure = plots.publish("t", plots.temperature_curve, FIGURES["temperature_curve"], ORIGIN, tmp_path)
    (ax,) = figure.axes
    line = next(line for line in ax.lines if "distilled" in line.get_label())
    np.testing.assert_allclose(line.get_ydata(), [90.0, 91.5, 91.5])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(91.5 + 12.7062 * 0.5, abs=1e-3)  # t(0.975, 1) · sd / √2


def test_diagrams_show_every_layer(tmp_path):
    student = models.mnist_student()
    figure = plots.publish("models", plots.diagrams(student), {"rows": []}, ORIGIN, tmp_path)
    assert {"fc1", "fc2", "logits"} <= set(texts_of(figure))


def test_a_disk_that_is_full_leaves_the_old_picture_whole(tmp_path, monkeypatch):
    plots.publish("digits", plots.digits, FIGURES["digits"], ORIGIN, tmp_path)
    before = (tmp_path / "digits.png").read_bytes()

    def cut_short(self, path, **options):
        with open(path, "wb") as file:
            file.write(before[:100])
        raise OSError("no space left")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", cut_short)
    with pytest.raises(OSError, match="no space left"):
        plots.publish("digits", plots.digits, FIGURES["digits"], ORIGIN, tmp_path)
    assert (tmp_path / "digits.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.json", "digits.png"]


def test_a_band_of_few_seeds_ends_where_accuracies_end():
    wide = {"blur": [[0.9, 0.1], [1.0, 0.6]]}
    figure = plots.corruption_curves({"kinds": ["blur"], "models": [{"name": "KD", "accuracy": wide}]}, "")
    (band,) = figure.axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == 0 and heights.max() == 100
