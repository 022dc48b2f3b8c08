"""The figures of Task 2 are drawn, saved with their numbers, and show what the numbers say."""

import json

import matplotlib
import numpy as np
import pytest
from PIL import Image

from utils import plots
from utils.metrics import mean_interval
from utils.plots import base, task2

matplotlib.use("agg")
ORIGIN = {"task": "task2", "source": "made for tests", "seeds": [0, 1, 2], "note": "a note"}
INTERVAL = {"mean": 0.8, "low": 0.7, "high": 0.85}
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
LABELS = {"teacher": "teacher", "distilled": "student with KD", "scratch": "student without KD"}
ARMS = [{"arm": arm, "label": label} for arm, label in LABELS.items()]
LINES = [arm | {"values": [[0.7, 0.6, 0.5, 0.4], [0.7, 0.6, 0.4, 0.4]]} for arm in ARMS]
FIGURES = {
    "polyp_views": {"images": [[task2.picture(IMAGE)] * 3] * 2, "rows": ["HP", "SSA"], "columns": ["1", "2", "3"]},
    "training_phases": {"frozen": 2, "panels": [{"title": t, "unit": f"{t}, nats", "lines": LINES} for t in "ab"]},
    "roc_curves": {
        "false_positive_rate": [0, 0.5, 1],
        "arms": [
            arm | {"sensitivity": [[0, 0.8, 1], [0.1, 0.9, 1]], "auc": INTERVAL, "points": [[0.2, 0.7], [0.3, 0.8]]}
            for arm in ARMS
        ],
    },
    "agreement_effect": {
        "agreement": ["4/7", "7/7"],
        "images": [164, 323],
        "unit": "test AUC",
        "chance": 0.5,
        "arms": [arm | {"strata": [INTERVAL, INTERVAL]} for arm in ARMS],
    },
    "transfer_grid": {
        "starts": ["random", "pre-trained"],
        "unit": "test AUC",
        "arms": [arm | {"cells": [INTERVAL | {"seeds": [0.79, 0.81]}] * 2} for arm in ARMS],
    },
    "temperature_panels": {
        "temperatures": [1, 4, 64],
        "panels": [
            {
                "unit": unit,
                "distilled": [[0.8, 0.9, 0.8], [0.8, 0.8, 0.7]],
                "teacher": [0.9, 0.91],
                "scratch": [0.7, 0.7],
            }
            for unit in ("test AUC", "test F1 of SSA")
        ],
    },
    "confident_mistakes": {
        "labels": LABELS,
        "thresholds": {"teacher": 0.5, "distilled": 0.4, "scratch": 0.3},
        "images": [
            {
                "pixels": task2.picture(IMAGE),
                "label": "SSA",
                "votes": 5,
                "probabilities": {"teacher": 0.9, "distilled": 0.1, "scratch": 0.5},
            }
        ]
        * 5,
    },
}


def published(name, folder):
    return base.publish(name, getattr(task2, name), FIGURES[name], ORIGIN, folder)


def texts_of(figure):
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_saved_with_its_numbers_and_origin(name, tmp_path):
    figure = published(name, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}.json", f"{name}.png"]
    with Image.open(tmp_path / f"{name}.png") as image:
        assert round(image.info["dpi"][0]) >= 150
    assert json.loads((tmp_path / f"{name}.json").read_text())["numbers"] == FIGURES[name]
    (caption,) = [t for t in texts_of(figure) if "made for tests" in t]
    assert "profile" in caption and "3 seeds" in caption and "a note" in caption


@pytest.mark.parametrize("name", sorted(set(FIGURES) - {"polyp_views", "confident_mistakes"}))  # images, not axes
def test_axes_are_named_and_the_arms_listed(name, tmp_path):
    figure = published(name, tmp_path)
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
    legends = figure.legends + [ax.get_legend() for ax in figure.axes if ax.get_legend()]
    listed = [text.get_text() for legend in legends for text in legend.get_texts()]
    assert all(any(text.startswith(label) for text in listed) for label in LABELS.values())


def test_a_picture_is_shown_as_it_was(tmp_path):
    shown = published("polyp_views", tmp_path).axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, IMAGE)


def test_the_roc_curve_is_the_mean_over_seeds_and_goes_with_the_trivial_point(tmp_path):
    (ax,) = published("roc_curves", tmp_path).axes
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["teacher: AUC 0.800 [0.700, 0.850]"].get_ydata(), [0.05, 0.85, 1])
    np.testing.assert_array_equal(lines["always HP"].get_xydata(), [[0, 0]])
    runs = next(line for line in ax.lines if line.get_marker() == task2.MARKER["scratch"])
    np.testing.assert_array_equal(runs.get_xydata(), [[0.2, 0.7], [0.3, 0.8]])


@pytest.mark.parametrize("name", ["agreement_effect", "transfer_grid"])
def test_bars_are_the_intervals_given(name, tmp_path):
    (ax,) = published(name, tmp_path).axes
    assert len(ax.containers) == 6  # three arms at two places
    for bar in ax.containers:
        ends = bar.lines[2][0].get_segments()[0][:, 1]
        np.testing.assert_allclose(ends, [0.7, 0.85])


def test_fine_tuning_begins_after_the_last_frozen_epoch(tmp_path):
    for ax in published("training_phases", tmp_path).axes:
        assert [2.5, 2.5] in [list(line.get_xdata()) for line in ax.lines]


def test_a_mistake_shows_votes_and_each_networks_answer(tmp_path):
    figure = published("confident_mistakes", tmp_path)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 10 and shown[0].get_title() == "SSA: 5 of 7 say SSA"
    answers = next(ax for ax in shown if ax.get_xlabel() == "P(SSA)")
    names = [tick.get_text() for tick in answers.get_yticklabels()]
    dots, ticks = ([line for line in answers.lines if len(line.get_xdata()) == n] for n in (1, 2))
    found, limits = (
        {names[round(np.mean(line.get_ydata()))]: line.get_xdata()[0] for line in lines} for lines in (dots, ticks)
    )
    assert found == {"teacher": 0.9, "student with KD": 0.1, "student without KD": 0.5}
    assert limits == {"teacher": 0.5, "student with KD": 0.4, "student without KD": 0.3}  # each network's own


def test_beside_the_temperatures_each_arm_without_one_has_its_interval(tmp_path):
    for ax in published("temperature_panels", tmp_path).axes:
        bars = {bar.get_label(): bar.lines[2][0].get_segments()[0] for bar in ax.containers}
        assert set(bars) == {"teacher", "student without KD"}
        low, high = mean_interval([0.9, 0.91])["low"], mean_interval([0.9, 0.91])["high"]
        np.testing.assert_allclose(bars["teacher"][:, 1], [low, high])
        places = [bar[0, 0] for bar in bars.values()]
        assert min(places) > 64 and len(set(places)) == 2 and max(places) < ax.get_xlim()[1]


def test_the_search_shows_the_interval_of_each_auc_that_was_tried():
    tried = {"auc": [[0.7, np.nan], [0.8, 0.6]], "low": [[0.61, np.nan], [0.72, 0.5]],
             "high": [[0.79, np.nan], [0.88, 0.7]]}  # fmt: skip
    figure = plots.search_heatmap({"alphas": [0.1, 0.9], "temperatures": [1, 4], "chosen": [0.9, 1]} | tried, "")
    written = {t.get_text() for t in figure.axes[0].texts}
    assert written == {"0.700\n[0.610, 0.790]", "", "0.800\n[0.720, 0.880]", "0.600\n[0.500, 0.700]"}


def test_the_bars_of_all_kinds_of_layers_add_up_to_what_a_network_costs(tmp_path):
    networks = {
        "teacher": {"Conv2D": {"parameters": 9e6, "flops": 4e6}, "Add": {"parameters": 0, "flops": 1e6}},
        "student": {
            "Conv2D": {"parameters": 1e6, "flops": 2e6}, "DepthwiseConv2D": {"parameters": 2e6, "flops": 1e6},
            "BatchNormalization": {"parameters": 5e5, "flops": 0}, "Dense": {"parameters": 25e4, "flops": 1e5},
        },
    }  # fmt: skip
    numbers = {"networks": networks, "quantities": {"parameters": "parameters", "flops": "FLOPs for one image"}}
    figure = base.publish("cost", plots.cost_by_kind, numbers, ORIGIN, tmp_path)
    for ax, totals in zip(figure.axes, ([9e6, 3.75e6], [5e6, 3.1e6]), strict=True):
        heights, bottoms = (
            np.array([[of(bar) for bar in bars] for bars in ax.containers])
            for of in (lambda bar: bar.get_height(), lambda bar: bar.get_y())
        )
        np.testing.assert_allclose(heights.sum(axis=0), totals)
        np.testing.assert_allclose(bottoms, np.cumsum(heights, axis=0) - heights)  # one on the other
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["teacher", "student"]
        # an edge would cover a part of a few percent in a small bar
        assert {bar.get_linewidth() * bar.get_edgecolor()[3] for bars in ax.containers for bar in bars} == {0}
    assert [ax.get_ylabel() for ax in figure.axes] == ["parameters", "FLOPs for one image"]
    assert {ax.get_xlabel() for ax in figure.axes} == {"network"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "convolutions", "depthwise convolutions", "batch normalisation", "all other layers"
    ]  # fmt: skip
    assert {"9 M", "3.75 M", "5 M", "3.1 M"} <= set(texts_of(figure))
