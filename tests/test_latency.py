"""Latencies are taken in interleaved rounds, and larger work takes longer."""

import os

import keras
import matplotlib
import numpy as np
import pytest

from utils import latency
from utils.export import to_litert
from utils.plots.ship import cost_frontier, frontier

matplotlib.use("agg")


def dense(*widths):
    image = x = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(x)
    for width in widths:
        x = keras.layers.Dense(width)(x)
    return to_litert(keras.Model(image, x), ("float32",))["float32"]


@pytest.fixture(scope="module")
def models():
    return {"small": dense(4), "large": dense(1500, 1500, 4)}


def test_larger_models_and_larger_batches_take_longer(models):
    rows = latency.measure(models, batch_sizes=(1, 64), threads=(1,), rounds=5)
    found = {(row["model"], row["batch"]): row for row in rows}
    assert len(found) == len(rows) == 4
    assert all(row["low"] <= row["median"] <= row["high"] and row["rounds"] == 5 for row in rows)
    assert found["large", 1]["median"] > 5 * found["small", 1]["median"] > 0
    assert found["large", 64]["median"] > 2 * found["large", 1]["median"]


def test_one_core_is_timed_once(models, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    rows = latency.measure(models, batch_sizes=(1,), rounds=3)
    assert [(row["model"], row["threads"]) for row in rows] == [("small", 1), ("large", 1)]
    assert list(latency.table(rows, models).index) == ["large", "small"]


def test_each_round_times_each_model_once_in_an_order_of_its_own(models, monkeypatch):
    names, asked = {}, []
    real = latency.LiteRT

    def named(content, threads):
        network = real(content, threads)
        names[id(network)] = next(name for name, known in models.items() if known is content), threads, network
        return network

    def clock(network, images, calls):
        asked.append(names[id(network)][:2])
        return 1e-3 * len(asked)

    monkeypatch.setattr(latency, "LiteRT", named)
    monkeypatch.setattr(latency, "_seconds", clock)
    rows = latency.measure(models, batch_sizes=(2,), threads=(1, "all"), rounds=12)
    for number, threads in enumerate((1, os.cpu_count())):
        timed = asked[26 * number : 26 * (number + 1)][2:]  # the first two find out how many calls make a sample
        assert {used for _, used in timed} == {threads}
        rounds = [(timed[2 * i][0], timed[2 * i + 1][0]) for i in range(12)]
        assert set(rounds) == {("small", "large"), ("large", "small")}
    assert [row["threads"] for row in rows] == [1, 1, os.cpu_count(), os.cpu_count()]
    times = [k + 1 for k, (name, _) in enumerate(asked[:26]) if name == "small" and k > 1]
    assert [rows[0][key] for key in ("low", "median", "high")] == pytest.approx(np.percentile(times, (25, 50, 75)))


def test_a_spread_needs_rounds_and_models(models):
    for arguments in ((models, 2), ({}, 5)):
        with pytest.raises(ValueError, match="3 rounds"):
            latency.measure(arguments[0], rounds=arguments[1])


def test_the_frontier_is_what_no_point_beats():
    #        cheap and bad, beaten, as cheap as the next but worse, on it, dear and no better, best
    costs, qualities = [1, 2, 3, 3, 9, 8], [50, 40, 60, 70, 70, 90]
    assert frontier(costs, qualities) == [0, 3, 5]
    assert frontier([5, 5], [1, 1]) == [0]


def test_the_figure_draws_each_point_against_three_costs():
    point = {"name": "teacher", "role": "teacher", "quality": 99.2, "flops": 2e7, "latency": 3.0, "bytes": 4e6}
    worse = {"name": "kd", "role": "distilled", "quality": 98.7, "low": 98.6, "high": 98.9, "flops": 2e6,
             "latency": 0.4, "latency_low": 0.3, "latency_high": 0.5, "bytes": 5e6}  # fmt: skip
    numbers = {"quality": "test accuracy, %", "latency": "ms", "points": [point, worse]}
    figure = cost_frontier(numbers, "made for tests")
    assert len(figure.axes) == 3 and all(ax.get_xlabel() for ax in figure.axes) and figure.axes[0].get_ylabel()
    lines = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert [[2.0, 98.7], [20.0, 99.2]] in lines  # by FLOPs both are on the frontier
    assert [[4.0, 99.2]] in [line.get_xydata().tolist() for line in figure.axes[2].lines]  # by size only the teacher is


def test_a_label_goes_below_its_point_where_one_of_like_cost_stands_above():
    costs = {"flops": 2e6, "latency": 0.4, "bytes": 5e6}
    points = [
        {"name": name, "role": role, "quality": quality, **costs}
        for name, role, quality in (("scratch", "scratch", 98.0), ("kd", "distilled", 98.7), ("dkd", "distilled", 98.5))
    ]
    points.append(points[0] | {"name": "teacher", "role": "teacher", "quality": 99.2, "flops": 2e7})
    figure = cost_frontier({"quality": "%", "latency": "ms", "points": points}, "made for tests")
    offsets = {text.get_text(): text.xyann[1] for text in figure.axes[0].texts}
    assert set(offsets) == {"scratch", "kd", "teacher"}  # dkd is neither on the frontier nor a reference
    assert offsets["scratch"] < 0 < offsets["kd"] and offsets["teacher"] > 0


def test_of_many_students_those_of_the_question_are_named_and_the_others_where_they_are_on_the_frontier():
    costs = {"flops": 2e6, "latency": 0.4, "bytes": 5e6}
    found = {"student with KD": 0.73, "student without KD": 0.67, "RKD": 0.68, "CID": 0.74}
    points = [
        {"name": name, "role": name if "student" in name else "student, other methods", "quality": quality, **costs}
        for name, quality in found.items()
    ]
    figure = cost_frontier({"quality": "test AUC", "latency": "ms", "points": points}, "made for tests")
    named = {text.get_text() for text in figure.axes[0].texts}
    assert named == {"student with KD", "student without KD", "CID"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "frontier", "student with KD", "student without KD", "student, other methods"
    ]  # fmt: skip


def test_the_table_has_a_line_for_each_model_and_the_size_of_its_file():
    rows = [
        {"model": name, "batch": batch, "threads": 1, "rounds": 3, "median": ms, "low": ms / 2, "high": 2 * ms}
        for name, ms in (("small", 1.0), ("large", 60.0))
        for batch in (1, 256)
    ]
    shown = latency.table(rows, {"small": bytes(10**6), "large": bytes(2 * 10**6)})
    assert shown.loc["small", (256, 1)] == "1.00 (0.50 to 2.00)"
    assert shown.loc["large", (256, 1)] == "60.00 (30.00 to 120.00)"
    told = [latency.in_words({"median": ms, "low": ms / 2, "high": 3 * ms}) for ms in (0.0152, 1234.5)]
    assert told == ["0.015 (0.008 to 0.046)", "1,234 (617 to 3,704)"]  # as many digits as can be read
    assert shown["file, MB", ""].to_dict() == {"small": "1.00", "large": "2.00"}
