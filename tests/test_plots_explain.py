"""The figures on explanations are drawn from plain numbers, on one colour scale, with their baselines named."""

import json

import keras
import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest

from utils import explain, plots
from utils.plots import explain as drawn

matplotlib.use("agg")
ORIGIN = {"task": "task1", "source": "made for tests", "seeds": [0], "note": "a note"}
LINE = {"name": "LIME", "values": [1.0, 0.4, 0.1], "area": 0.475}
SCORES = {
    "agreement": [
        {"title": "rank correlation", "chance": None, "rows": [{"name": "KD", "mean": 0.7, "low": 0.6, "high": 0.8}]},
        {"title": "overlap", "chance": 0.25, "rows": [{"name": "from scratch", "mean": 0.5, "low": 0.4, "high": 0.6}]},
    ],
    "curves": {name: {"deletion": [LINE], "insertion": [LINE | {"name": "edges"}]} for name in ("teacher", "student")},
}


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.fixture(scope="module", params=[(8, 1), (72, 3)])
def rows(request):
    side, channels = request.param
    image = np.random.default_rng(0).uniform(0.4, 1, (side, side, channels))
    keras.utils.set_random_seed(0)
    models = {
        name: keras.Sequential([keras.Input(image.shape), keras.layers.Flatten(), keras.layers.Dense(3)])
        for name in ("teacher", "student")
    }
    stripes = np.repeat(np.indices((side, 1))[0] // (side // 4), side, axis=1)
    found = explain.explain_image(models, image, [0, 1], segmentation=lambda _: stripes, background=0.0, samples=30)
    return [explain.figure_row("easy", found, label, ("zero", "one", "two")) for label in (0, 1)]


def test_maps_are_drawn_from_the_file_on_one_scale_with_their_class_and_probability(rows, tmp_path):
    figure = plots.publish("explanations", drawn.explanations, {"rows": rows, "unit": "weight"}, ORIGIN, tmp_path)
    assert (tmp_path / "explanations.png").exists()
    stored = json.loads((tmp_path / "explanations.json").read_text())["numbers"]["rows"]
    maps = [i for ax in figure.axes for i in ax.images if i.get_cmap().name == drawn.DIVERGING]
    assert len(maps) == 4
    for row, pair in zip(stored, (maps[:2], maps[2:]), strict=True):
        most = max(drawn.LEAST, *(np.abs(found["weights"]).max() for found in row["maps"]))
        assert {shown.get_clim() for shown in pair} == {(-most, most)}
    first = np.asarray(stored[0]["maps"][0]["weights"])[np.asarray(stored[0]["segments"])]
    np.testing.assert_allclose(maps[0].get_array(), first)
    texts = texts_of(figure)
    assert "colours: weight" in texts and "easy\nwhy one?" in texts
    assert sum("p(zero) = " in text for text in texts) == 2 and any("teacher\n" in text for text in texts)
    assert any("made for tests" in text and "profile" in text for text in texts)


def test_a_prediction_that_differs_from_the_explained_class_stands_in_the_title(rows):
    titles = [m["title"] for row in rows for m in row["maps"]]
    assert any(", says " in title for title in titles)


def test_with_thresholds_each_title_names_the_answer_that_they_give():
    weights = {name: {1: np.zeros(4)} for name in ("teacher", "student")}
    probabilities = {"teacher": np.array([0.7, 0.3]), "student": np.array([0.6, 0.4])}
    segments = np.arange(4).reshape(2, 2)
    found = explain.Explanation(np.zeros((2, 2, 3)), segments, np.ones(4, bool), weights, probabilities)
    maps = explain.figure_row("easy", found, 1, ("HP", "SSA"), {"teacher": 0.3, "student": 0.5})["maps"]
    assert [m["title"] for m in maps] == ["p(SSA) = 0.30, called SSA", "p(SSA) = 0.40, called HP"]
    told = explain.told(found, 1, ("HP", "SSA"), {"teacher": 0.3, "student": 0.5})
    assert "The teacher answers SSA (p(SSA) = 0.30)" in told and "The student answers HP (p(SSA) = 0.40)" in told


def test_scores_name_their_baselines_and_areas(tmp_path):
    figure = plots.publish("scores", drawn.explanation_scores, SCORES, ORIGIN, tmp_path)
    texts = texts_of(figure)
    assert {"teacher: deletion", "student: insertion", "LIME 0.47", "edges 0.47", "chance", "overlap"} <= set(texts)
    (interval,) = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(interval.get_xdata(), [0.6, 0.8])
    assert all(ax.get_xlabel() for ax in figure.axes)


def test_noise_is_not_stretched_to_full_colour(rows):
    faint = [row | {"maps": [m | {"weights": np.asarray(m["weights"]) * 1e-6} for m in row["maps"]]} for row in rows]
    figure = drawn.explanations({"rows": faint, "unit": "weight"}, "caption")
    limits = {i.get_clim() for ax in figure.axes for i in ax.images if i.get_cmap().name == drawn.DIVERGING}
    matplotlib.pyplot.close(figure)
    assert limits == {(-drawn.LEAST, drawn.LEAST)}
