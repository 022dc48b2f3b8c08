"""The race is only run between equals, and its ratios are taken within a round; what is measured of the drawings."""

import json
import sys
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from benchmarks import methods, polyps, segments, speed, transfer
from utils import plots
from utils.data import Split, load_mnist
from utils.distiller import with_taps
from utils.methods import Sizes
from utils.models import mnist_student, mnist_teacher
from utils.runs import Run
from utils.settings import ROOT


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (256, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, 256).astype(np.int32))


def test_all_variants_compute_the_same_loss_and_gradient(split):
    report = speed.same_loss_and_gradient(mnist_teacher(), split)
    assert set(report) == {"template", "keras", "live", "cached"}
    assert all(entry["relative gap of the gradient"] < 1e-3 for entry in report.values())


def test_a_variant_with_another_loss_is_not_raced(split, monkeypatch):
    right = speed.keras_distiller

    def wrong(teacher, student, jit):
        model = right(teacher, student, jit)
        model.student_loss_weight = 0.9
        return model

    monkeypatch.setattr(speed, "keras_distiller", wrong)
    with pytest.raises(ValueError, match="keras computes another loss"):
        speed.same_loss_and_gradient(mnist_teacher(), split)


def test_the_epoch_that_compiles_does_not_count(split, monkeypatch):
    class Clock(speed.EpochClock):
        def on_train_end(self, logs=None):
            assert len(self.seconds) == 4
            self.seconds = [100.0, 1.0, 2.0, 4.0]

    monkeypatch.setattr(speed, "EpochClock", Clock)
    said = {"logits": np.zeros((1, len(split), 10), np.float32)}
    ours = speed.our_distiller(None, speed.fresh_student(), steps=1)
    assert speed.fit_rates(ours, split, said, epochs=3) == [len(split), len(split) / 2, len(split) / 4]


def test_ratios_pair_the_rounds_and_charge_the_teachers_pass():
    rates = pd.DataFrame(
        {"template": [1.0, 2.0], "keras, XLA": [4.0, 4.0], "keras, no XLA": [2.0, 8.0], "live": [4.0, 8.0],
         "cached": [20.0, 40.0], "scratch": [10.0, 20.0], "limit": [40.0, 40.0], "teacher pass": [5.0, 5.0]}
    )  # fmt: skip
    found = speed.ratios(rates, epochs=4)
    assert found["cached / keras"].tolist() == [5.0, 5.0] and found["cached / template"].tolist() == [20.0, 20.0]
    assert found["cached, its pass paid in 4 epochs / keras"].tolist() == pytest.approx([10 / 4, (40 / 3) / 8])


def made_up_times():
    """In seconds for an image: a student's epoch 1, that of each teacher and asking it something of its own."""
    times = {name: [(12, 1.0)] for name in methods.STUDENTS} | {"fitnets": [(3, 1.0), (12, 1.0)]}
    epochs = {"teacher": 10.0, "friendly teacher": 20.0, "teacher with subclasses": 30.0, "assistant": 40.0}
    times |= {name: [(12, seconds)] for name, seconds in epochs.items()}
    return times | {("ask", name): seconds / 5 for name, seconds in epochs.items()}


def test_the_stored_speed_meets_the_targets_it_can_and_tells_every_epoch():
    stored = json.loads((ROOT / "figures/benchmark_speed.json").read_text())["numbers"]
    ratios = {name: np.median(values) for name, values in stored["ratios"].items()}
    assert len(stored["ratios"]["cached / keras"]) >= 5
    assert ratios["cached / keras"] >= 4 and ratios["cached / scratch"] >= 1.1
    assert ratios["cached / limit"] >= 0.65 and ratios["live / keras"] >= 1
    for name in ("cached", "scratch"):  # several epochs a round, all kept: speed may differ between epochs
        assert len(stored["by epoch"][name]) > len(stored["rates"][name])
    assert stored["sweep"]["epochs"] == 12 and stored["sweep"]["ratio"] > 2


def test_a_whole_training_costs_its_stages_its_teachers_and_asking_them():
    found = {name: seconds / 60_000 for name, seconds in methods.in_all(made_up_times()).items()}
    assert found["scratch"] == 12 and found["kd"] == 12 + 122 and found["fitnets"] == 3 + 12 + 122
    assert found["sftn"] == 12 + 244 and found["subclass"] == 12 + 366
    assert found["takd"] == 12 + 488 + 122 and found["ensemble"] == 12 + 3 * 122


def test_costs_are_compared_within_a_round():
    fast, slow = made_up_times(), {}
    for name, times in fast.items():
        slow[name] = 2 * times if isinstance(times, float) else [(epochs, 2 * time) for epochs, time in times]
    table = methods.compared([fast, slow])
    for part in ("epoch", "in all"):
        assert table[f"{part}, min"].equals(table[f"{part}, max"]) and table.loc["kd", f"{part}, median"] == 1
    assert table.loc["takd", "in all, median"] == pytest.approx(622 / 134)


@pytest.mark.parametrize("name", methods.STUDENTS)
def test_the_teachers_behind_a_method_are_those_that_training_makes(name):
    made, own = [], {"friendly_teacher": "friendly teacher", "subclass_teacher": "teacher with subclasses"}

    def train(build_model, method, teacher=None, **options):
        made.append(own.get(method.name, "assistant"))
        return teacher

    given = Run({}, None, mnist_teacher, None, None)
    methods.STUDENTS[name].prepare_teacher(train, given, mnist_student)
    expected = methods.OTHER_TEACHERS.get(name, ())
    assert tuple(made) == (expected if name in ("takd", "sftn", "subclass") else ())


@pytest.mark.parametrize("name", methods.STUDENTS)
def test_every_method_takes_the_random_signals(name):
    method = methods.STUDENTS[name]
    said = methods.random_signals(method, 8)
    numbers = np.random.default_rng(0)
    batch = {"label": np.arange(8) % 4, "index": np.arange(8), "epoch": 0}
    batch = {key: tf.constant(value, tf.int32) for key, value in batch.items()}
    if said:
        batch["teacher"] = {key: tf.constant(array[0]) for key, array in said.items()}
    student = method.make_student(mnist_student, methods.CLASSES)
    sizes = Sizes(images=8, teacher={key: array.shape[2:] for key, array in (said or {}).items()})
    for stage, _ in method.stages(1):
        images = tf.constant(numbers.random((8, 28, 28, 1)), tf.float32)
        outputs = with_taps(student, stage.student_taps)(images, True)
        loss, _ = stage.loss(batch, outputs, stage.make_heads(student, sizes))
        assert np.isfinite(loss)


def test_the_cost_of_methods_is_drawn(tmp_path):
    rows = methods.compared([made_up_times()]).rename_axis("name").reset_index().to_dict("records")
    plots.publish("costs", methods.draw, {"rows": rows}, {"task": "benchmark", "source": "made up"}, tmp_path)
    assert (tmp_path / "costs.png").stat().st_size > 10_000


def test_each_stage_of_a_method_is_timed(split):
    stages = methods.epochs_of(mnist_student, methods.STUDENTS["fitnets"], split)
    assert [epochs for epochs, _ in stages] == [3, 12] and all(0 < one_epoch() < 1 for _, one_epoch in stages)


def test_expected_hours_add_up():
    """By hand, at a second for each image and work: 1,849 × (18.9 × (25 + 20) + 9 × 10 + 109 × 25) seconds."""
    found = transfer.expected_hours({"teacher": 1.0, "asking": 1.0, "student": 1.0}, rate=transfer.T4_RATE / 10)
    assert found["this machine"] == pytest.approx(6_777_509.5 / 3600) and found["Colab T4"] == pytest.approx(188.26415)
    assert found["Colab T4, filled a fifth as well"] == pytest.approx(5 * 188.26415)


def test_the_stored_hours_are_those_of_the_stored_seconds():
    stored = json.loads((ROOT / "figures/benchmark_transfer.json").read_text())["numbers"]
    hours = transfer.expected_hours(stored["seconds per image"], stored["matrix product, operations a second"])
    assert stored["expected hours on MHIST"] == pytest.approx(hours)


def tiny(name, filters):
    """A builder in the place of one of the large networks: the same named layers, few weights."""

    def build(outputs=2, size=32, weights=None):
        image = keras.Input((size, size, 3), name="image")
        x = keras.layers.Conv2D(filters, 3, strides=4, name="conv")(image)
        x = keras.layers.BatchNormalization(trainable=False, name="norm")(x)
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dropout(0.2, name="dropout")(x)
        return keras.Model(image, keras.layers.Dense(outputs, name="logits")(x), name=name)

    build.__name__ = name
    return build


@pytest.fixture
def tiny_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "settings", replace(transfer.settings, figures=tmp_path))
    monkeypatch.setattr(transfer.models, "mhist_teacher", tiny("mhist_teacher", 4))
    monkeypatch.setattr(transfer.models, "mhist_student", tiny("mhist_student", 3))
    return tmp_path / "benchmark_transfer.json"


def test_task_2s_two_phases_are_raced_and_stored(tiny_networks, monkeypatch):
    arguments = "--rounds 2 --images 8 --sweep-rounds 1 --sweep-images 32 --epochs 1"
    monkeypatch.setattr(sys, "argv", ["transfer", *arguments.split()])
    transfer.main()
    numbers = json.loads(tiny_networks.read_text())["numbers"]
    sweep, epoch = numbers["sweep"], numbers["epoch"]
    assert numbers["ratios"]["frozen sweep, plain / cached"] == [sweep["plain"][0] / sweep["cached"][0]]
    assert len(epoch["live"]) == 2 and set(epoch) == {"live", "cached", "asking the teacher", "the teacher's own"}
    assert numbers["seconds per image"]["student"] == pytest.approx(np.median(epoch["cached"]) / 8)
    assert (numbers["images"], numbers["sweep images"], numbers["epochs"]) == (8, 32, 1)


@pytest.mark.parametrize("option", ["--rounds", "--images", "--sweep-rounds", "--sweep-images", "--epochs"])
def test_a_race_of_nothing_is_refused(tiny_networks, monkeypatch, capsys, option):
    monkeypatch.setattr(sys, "argv", ["transfer", option, "0"])
    with pytest.raises(SystemExit):
        transfer.main()
    assert f"{option} is 0; it starts at 1" in capsys.readouterr().err and not tiny_networks.exists()


def test_what_can_be_learned_from_the_drawings_is_measured_and_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(polyps, "settings", replace(polyps.settings, figures=tmp_path, seeds=(0, 1)))
    monkeypatch.setattr(sys, "argv", ["polyps", "--train", "64", "--test", "150", "--size", "32", "--epochs", "1"])
    polyps.main()
    content = json.loads((tmp_path / "benchmark_polyps.json").read_text())
    assert content["source"] == "drawn polyps, NOT MHIST, 32 px" and content["seeds"] == [0, 1]
    numbers = content["numbers"]
    assert len(numbers["by agreement"]["7 of 7"]) == numbers["small network"]["n"] == 2
    assert numbers["parameters"] == 9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 128) + 4 * 240 + 2 * 128 + 2
    assert 0 < numbers["colours alone"] < 1 < numbers["images a second"]


def test_the_stored_drawings_can_be_learned_but_not_by_their_colours():
    stored = json.loads((ROOT / "figures/benchmark_polyps.json").read_text())["numbers"]
    assert stored["small network"]["low"] >= 0.85 and stored["colours alone"] <= 0.62
    agreed = [np.median(stored["by agreement"][f"{votes} of 7"]) for votes in (4, 5, 6, 7)]
    assert agreed == sorted(agreed) and stored["images a second"] >= 50 and stored["size"] == 96


def stripes():
    """A network for 8 x 8 images that counts the ink of the left half for class 0 and of the right half for class 1."""
    kernel = np.zeros((64, 2), np.float32)
    left = (np.arange(64) % 8) < 4
    kernel[left, 0] = kernel[~left, 1] = 0.2
    image = keras.Input((8, 8, 1))
    network = keras.Model(image, keras.layers.Dense(2, use_bias=False)(keras.layers.Flatten()(image)))
    network.set_weights([kernel])
    return network


def test_segmentations_are_scored_and_one_that_finds_a_single_piece_is_counted_not_scored():
    images, labels = np.full((3, 8, 8, 1), 255, np.uint8), np.zeros(3, int)
    halves = {"halves": lambda image: np.indices((8, 8))[1] // 4, "nothing": lambda image: np.zeros((8, 8), int)}
    halves |= {"upper and lower": lambda image: np.indices((8, 8))[0] // 4}
    rows = {row["name"]: row for row in segments.tested(halves, stripes(), images, labels, np.zeros(3), samples=60)}
    assert rows["halves"]["explained"] == 1 and rows["halves"]["pieces"] == 2
    assert rows["nothing"] == {"name": "nothing", "explained": 0.0, "pieces": 0.0}
    assert rows["halves"]["deletion"]["mean"] < rows["upper and lower"]["deletion"]["mean"] - 0.1
    assert rows["halves"]["insertion"]["mean"] > rows["upper and lower"]["insertion"]["mean"] + 0.1
    assert segments.by_rule([rows["halves"], rows["nothing"]]) == "halves"


def test_the_rule_wants_every_image_explained_and_two_seeds_alike():
    def row(name, explained, alike, deletion):
        return {"name": name, "explained": explained, "two seeds": {"mean": alike}, "deletion": {"mean": deletion}}

    rows = [row("in part", 0.9, 0.99, 0.1), row("loose", 1.0, 0.89, 0.1), row("fine", 1.0, 0.9, 0.2)]
    assert segments.by_rule([*rows, row("coarse", 1.0, 0.99, 0.3)]) == "fine"
    assert segments.by_rule(rows[:2]) is None


def test_one_image_is_too_few_for_an_interval(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["segments", "--images", "1"])
    with pytest.raises(SystemExit):
        segments.main()
    assert "needs two at least" in capsys.readouterr().err


def test_the_choice_of_segments_is_measured_and_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "settings", replace(segments.settings, figures=tmp_path))
    monkeypatch.setattr(segments, "load_mnist", lambda: load_mnist("standin"))
    arguments = "--images 2 --samples 60 --epochs 1 --polyps 200 --size 32"
    monkeypatch.setattr(sys, "argv", ["segments", *arguments.split()])
    segments.main()
    numbers = json.loads((tmp_path / "benchmark_segments.json").read_text())["numbers"]
    assert [row["name"] for row in numbers["digits"]["rows"]] == list(segments.DIGITS)
    tiles = {row["name"]: row["pieces"] for row in numbers["digits"]["rows"]}
    assert tiles["tiles of 2 pixels"] > tiles["tiles of 4 pixels"] > tiles["tiles of 7 pixels"]
    assert [row["name"] for row in numbers["tissue"]["rows"]] == list(segments.TISSUE)
