"""Training runs: equal starts, records that spare repetition, interruption, failure, and which split is read."""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from tensorflow.python.framework.func_graph import FuncGraph

from utils import fitting, results, runs, signals, training
from utils.data import Dataset, Split
from utils.data.pipeline import View
from utils.distiller import Distiller, TrainingFailed
from utils.methods import ESKD, KD, METHODS, Ensemble, OnSubclasses, Scratch
from utils.models import mnist_student, mnist_teacher

ROOT = Path(__file__).resolve().parent.parent


def tiny_data(n=60, seed=0):
    """Three classes of 4x4 images, told apart by which row is bright."""
    rng = np.random.default_rng(seed)

    def split(size):
        labels = np.arange(size, dtype=np.int32) % 3
        images = rng.integers(0, 120, (size, 4, 4, 1)).astype(np.uint8)
        images[np.arange(size), labels] += 100
        return Split(images, labels)

    return Dataset("tiny", "made for tests", ("a", "b", "c"), split(n), split(12), split(15))


def tiny_model(outputs=3):
    body = [layers.Flatten(name="flatten"), layers.Dense(8, "relu", name="fc"), layers.Dropout(0.2)]
    return keras.Sequential([keras.Input((4, 4, 1)), *body, layers.Dense(outputs, name="logits")])


def exploding_model(outputs=3):
    keras_model = tiny_model(outputs)
    keras_model.layers[-1].kernel.assign(np.full((8, 3), np.nan))
    return keras_model


@pytest.fixture
def folders(tmp_path, untraced):
    return {"runs": tmp_path / "runs", "cache": tmp_path / "cache"}


def train(folders, method=None, **options):
    options = {"epochs": 2, "batch_size": 40, "data": tiny_data()} | options
    build, data = options.pop("build", tiny_model), options.pop("data")
    return training.train_and_evaluate(build, method or Scratch(), data, **options, **folders)


def weights_of(run):
    return run.model().get_weights()


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_two_runs_of_one_seed_are_equal_bit_for_bit_and_of_two_seeds_are_not(tmp_path):
    ends = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = train({"runs": tmp_path / folder, "cache": tmp_path / folder}, seed=seed, view=View())
        ends.append((weights_of(run), run.record["history"]["loss"]))
    assert same(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]
    assert not same(ends[0][0], ends[2][0])


@pytest.mark.parametrize("build", [mnist_teacher, mnist_student])
def test_at_full_size_too_two_runs_end_in_the_same_bits(build, monkeypatch):
    # All threads, dropout, the last partial batch, and XLA where it is used: sums must not depend on timing.
    monkeypatch.setattr(fitting, "WORTH_COMPILING", 0)
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (300, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, 300).astype(np.int32))
    logits = rng.normal(0, 4, (2, 300, 10)).astype(np.float32)
    ends = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        model = build()
        fitting.fit_distiller(
            model, KD(), split, teacher_signals={"logits": logits}, validation=None, seed=1, epochs=2,
            batch_size=256, learning_rate=1e-3, schedule="constant", view=View(), views=None, callbacks=[],
        )  # fmt: skip
        ends.append(model.get_weights())
    assert same(*ends)


def test_runs_of_one_seed_start_from_the_same_weights_whatever_the_method(folders, monkeypatch):
    starts = []
    fit = fitting.fit_distiller

    def spy(student, method, *args, **kwargs):
        starts.append([w.copy() for w in student.get_weights()])
        return fit(student, method, *args, **kwargs)

    teacher = train(folders, seed=7)
    monkeypatch.setattr(fitting, "fit_distiller", spy)
    train(folders, Scratch(), seed=5, epochs=1)
    for temperature in (1.0, 4.0):
        train(folders, KD(temperature=temperature), teacher=teacher, seed=5, epochs=1)
    train(folders, KD(), teacher=teacher, seed=6, epochs=1)
    assert same(starts[0], starts[1]) and same(starts[0], starts[2]) and not same(starts[0], starts[3])


def test_a_recorded_run_is_not_repeated(folders, monkeypatch):
    first = train(folders, seed=1)
    monkeypatch.setattr(Distiller, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = train(folders, seed=1)
    assert again.record == first.record and same(weights_of(first), weights_of(again))


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"epochs": 3}, {"batch_size": 8}, {"learning_rate": 0.01}, {"schedule": "cosine"},
     {"view": View(), "views": 1},
     {"view": View()}, {"purpose": "choose"},
     {"data": tiny_data(seed=1)}],
)  # fmt: skip
def test_any_other_setting_is_another_run(folders, change):
    first = train(folders, seed=1)
    assert train(folders, **({"seed": 1} | change)).key != first.key


def test_another_teacher_or_temperature_is_another_run(folders):
    teachers = [train(folders, seed=seed) for seed in (1, 2)]
    keys = {
        train(folders, KD(temperature=t), teacher=teacher, epochs=1).key for teacher in teachers for t in (1.0, 4.0)
    }
    assert len(keys) == 4


def test_the_history_has_every_loss_term_for_every_epoch(folders):
    teacher = train(folders, purpose="choose", seed=1)
    run = train(folders, KD(), teacher=teacher, purpose="choose", epochs=3)
    history = run.record["history"]
    names = {"loss", "cross_entropy", "distillation", "accuracy"}
    assert set(history) == names | {f"val_{name}" for name in names}
    assert all(len(values) == 3 for values in history.values())
    assert history["val_accuracy"][-1] == pytest.approx(run.accuracy)


def test_choosing_never_reads_the_test_split_and_reporting_trains_on_everything_else(folders, monkeypatch):
    data = tiny_data()
    seen = []
    fit, predict = fitting.fit_distiller, signals.predict_logits

    def watched_fit(student, method, split, **options):
        seen.append(len(split))
        return fit(student, method, split, **options)

    def watched_predict(model, images):
        seen.append(images)
        return predict(model, images)

    monkeypatch.setattr(fitting, "fit_distiller", watched_fit)
    monkeypatch.setattr(signals, "predict_logits", watched_predict)
    chosen = train(folders, data=data, purpose="choose")
    assert seen[0] == 60 and np.array_equal(seen[1], data.validation.images)
    assert chosen.record["evaluated_on"] == "validation"
    seen.clear()
    reported = train(folders, data=data, purpose="report")
    assert seen[0] == 72 and np.array_equal(seen[1], data.test.images)
    assert reported.record["evaluated_on"] == "test" and reported.record["metrics"]["images"] == 15


def test_a_record_says_where_its_numbers_come_from(folders):
    record = json.loads(next(iter((train(folders) and folders["runs"]).iterdir())).read_text())
    assert record["source"] == "made for tests" and record["profile"] in ("quick", "full")
    assert record["status"] == "finished" and record["training_seconds"] > 0
    assert record["config"]["seed"] == 0 and record["config"]["epochs"] == 2
    # What is in the configuration tells one run from another: under another version or profile it is made again.
    assert record["config"]["profile"] == record["profile"]
    assert all(record["config"][name] == record["versions"][name] for name in ("tensorflow", "keras"))
    assert record["versions"]["keras"] and record["metrics"]["accuracy"] >= 0


def test_a_loss_that_turns_nan_stops_the_run_and_is_no_result(folders):
    with pytest.raises(TrainingFailed, match="step 0"):
        train(folders, build=exploding_model)
    record = json.loads(next(folders["runs"].iterdir()).read_text())
    assert record["status"] == "failed" and "step 0" in record["reason"] and "metrics" not in record
    with pytest.raises(TrainingFailed):  # and it is tried again, not taken from the record
        train(folders, build=exploding_model)


def test_weights_that_are_not_finite_after_the_last_step_are_no_result_either(folders, monkeypatch):
    predict = signals.predict_logits

    def broken(model, images):
        return predict(model, images) * np.nan

    monkeypatch.setattr(signals, "predict_logits", broken)
    with pytest.raises(TrainingFailed, match="not finite"):
        train(folders)
    assert json.loads(next(folders["runs"].iterdir()).read_text())["status"] == "failed"


def test_a_student_of_a_teacher_with_other_weights_is_trained_again(folders, capsys):
    teacher = train(folders, seed=1)
    student = train(folders, KD(), teacher=teacher)
    stamp = json.loads(next(folders["runs"].glob("*-kd-*")).read_text())
    assert stamp["teacher_weights"] == teacher.record["weights_digest"]
    teacher.record["weights_digest"] = "what another machine would have made"
    again = train(folders, KD(), teacher=teacher)  # asks the teacher, who is made again, the same as before
    assert "made again" in capsys.readouterr().out
    assert same(weights_of(student), weights_of(again))


TRACED = []


@dataclass(frozen=True)
class Noting(KD):
    """KD that notes each time its loss is traced."""

    name = "noting"

    def loss(self, batch, outputs, heads):
        TRACED.append(self)
        return super().loss(batch, outputs, heads)


def test_a_step_is_traced_once_whatever_the_last_batch(folders, traced):
    TRACED.clear()
    train(folders, Noting(), teacher=train(folders, seed=1))
    assert len(TRACED) == 1  # two, if the step had to make the optimizer's variables


def test_students_share_their_teachers_network_as_long_as_it_has_the_same_weights(folders):
    teacher = train(folders, seed=1)
    asked = runs.model_of(teacher)
    assert runs.model_of((teacher, teacher)) == (asked, asked)
    teacher.record["weights_digest"] = "others"
    assert runs.model_of(teacher) is not asked


def test_the_collector_passes_over_what_is_imported():
    assert gc.get_freeze_count() > 100_000


def test_weights_that_are_gone_or_damaged_are_made_again(folders, capsys):
    run = train(folders, seed=1)
    before = weights_of(run)
    run.weights.unlink()
    again = train(folders, seed=1)
    assert same(before, weights_of(again)) and capsys.readouterr().out.count("made again") == 1
    assert same(before, weights_of(again)) and "made again" not in capsys.readouterr().out
    run.weights.write_bytes(b"damaged")
    assert same(before, weights_of(train(folders, seed=1)))


def test_a_corrupt_record_is_set_aside_and_the_run_made_again(folders, capsys):
    first = train(folders, seed=1)
    path = next(folders["runs"].iterdir())
    path.write_text('{"status": "finis')
    assert train(folders, seed=1).record["metrics"] == first.record["metrics"]
    assert sorted("corrupt" in p.name for p in folders["runs"].iterdir()) == [False, True]
    assert "cannot be read" in capsys.readouterr().out


def test_a_sweep_is_not_flat_and_asks_each_teacher_once(folders, monkeypatch):
    teachers = {seed: train(folders, seed=seed) for seed in (0, 1)}
    asked = []
    say = signals.say
    monkeypatch.setattr(signals, "say", lambda line: (asked.append(line), say(line)))
    swept = training.temperature_sweep(
        tiny_model, tiny_data(), teachers, temperatures=(1, 4, 64), epochs=2, batch_size=16, **folders
    )
    assert [len(runs) for runs in swept.values()] == [2, 2, 2]
    ends = [weights_of(runs[0])[0] for runs in swept.values()]
    assert not np.array_equal(ends[0], ends[1]) and not np.array_equal(ends[1], ends[2])
    assert len(asked) == 4  # for each teacher: the training split and the test split


def test_num_correct_counts_in_inference_mode():
    keras.utils.set_random_seed(0)
    model, split = tiny_model(), tiny_data().test
    images = split.images / np.float32(255)
    expected = int(np.sum(np.argmax(model(images, training=False), -1) == split.labels))
    counts = {training.compute_num_correct(model, images, split.labels) for _ in range(5)}
    assert counts == {expected}


def test_block_length_divides_the_epoch():
    assert [fitting.block_length(n) for n in (235, 215, 6, 1, 127)] == [47, 43, 6, 1, 1]


class TwoStages(Scratch):
    """One epoch that moves only the hidden layer, then the rest."""

    name = "two stages"

    def stages(self, epochs):
        return [(OnlyHidden(), 1), (self, epochs)]


class OnlyHidden(Scratch):
    def trained_variables(self, student, heads):
        return student.get_layer("fc").trainable_variables


def test_a_finished_run_leaves_no_graph_behind(folders, traced):
    def graphs():
        gc.collect()
        return sum(isinstance(thing, FuncGraph) for thing in gc.get_objects())

    train(folders, seed=0)
    before = graphs()
    for seed in (1, 2):
        train(folders, seed=seed)
    assert graphs() == before


BUILT = []


def remembered_model(outputs=3):
    model = tiny_model(outputs)
    BUILT.append(weakref.ref(model))
    return model


def test_the_next_run_frees_the_networks_of_the_last(folders, traced):
    BUILT.clear()
    gc.disable()  # which Python's collector does by itself only after many objects, and a network is few
    try:
        for seed in (0, 1):
            train(folders, build=remembered_model, seed=seed)
        assert BUILT[0]() is None
    finally:
        gc.enable()


def test_stages_train_one_student_one_after_the_other(folders, monkeypatch):
    ends, fit = [], Distiller.fit

    def watched(self, *args, **options):
        result = fit(self, *args, **options)
        ends.append((type(self.method), int(self.optimizer.iterations), weights_of_model(self.student)))
        return result

    monkeypatch.setattr(Distiller, "fit", watched)
    run = train(folders, TwoStages(), epochs=3)
    assert [end[:2] for end in ends] == [(OnlyHidden, 2), (TwoStages, 6)]  # 72 images in batches of 40
    keras.utils.set_random_seed(0)
    start = tiny_model().get_weights()
    assert [np.array_equal(a, b) for a, b in zip(start, ends[0][2], strict=True)] == [0, 0, 1, 1]
    assert same(ends[1][2], weights_of(run))
    assert len(run.record["history"]["loss"]) == 3 and len(run.record["earlier_stages"][0]["loss"]) == 1


def weights_of_model(model):
    return [w.copy() for w in model.get_weights()]


@dataclass(frozen=True)
class Wider(KD):
    """Another teacher, trained for the purpose, and a student with more hidden units than asked for."""

    name = "wider"
    teacher_epochs: int = 1

    def prepare_teacher(self, train, teacher, build_student):
        assert build_student is tiny_model
        return train(teacher.build_model, Scratch(), epochs=self.teacher_epochs)

    def make_student(self, build_model, classes):
        plain = build_model(outputs=classes)
        doubled = keras.layers.Rescaling(2.0)(plain.outputs[0])
        return keras.Model(plain.inputs, doubled)


def test_a_method_may_make_its_own_teacher_and_its_own_student(folders):
    teacher = train(folders, seed=3, epochs=2)
    run = train(folders, Wider(), teacher=teacher, seed=3, epochs=2)
    shorter = train(folders, seed=3, epochs=1)
    assert run.record["config"]["teacher"] == shorter.key != teacher.key
    assert isinstance(run.model().layers[-1], layers.Rescaling)
    own = train(folders, seed=3, epochs=2, purpose="choose")
    chosen = train(folders, Wider(), teacher=own, seed=3, epochs=2, purpose="choose")
    assert chosen.record["config"]["teacher"] == train(folders, seed=3, epochs=1, purpose="choose").key


def test_a_teacher_made_for_a_method_is_trained_as_the_given_one_was(folders):
    teacher = train(folders, seed=3, epochs=4, also_after=(2,), batch_size=16)
    run = train(folders, ESKD(teacher_epochs=2, stop_after=1), teacher=teacher, seed=5, epochs=3, batch_size=8)
    shorter = train(folders, seed=3, epochs=2, batch_size=16)
    assert run.record["config"]["teacher"] == shorter.key and run.teacher.key == shorter.key
    with pytest.raises(ValueError, match="must be a run from train_and_evaluate"):
        train(folders, ESKD(teacher_epochs=2), teacher=teacher.model())


def test_nothing_is_chosen_under_a_teacher_that_saw_the_validation_images(folders):
    teacher = train(folders, seed=3)
    with pytest.raises(ValueError, match="trained on the validation images too"):
        train(folders, KD(), teacher=teacher, purpose="choose")


def test_a_grid_is_searched_on_validation_alone(folders):
    teacher = train(folders, purpose="choose")
    found = training.grid_search(
        tiny_model, tiny_data(), teacher, alphas=(0.1, 0.9), temperatures=(1, 4), seeds=(5,), epochs=1,
        batch_size=16, **folders,
    )  # fmt: skip
    assert list(found) == [(0.1, 1.0), (0.1, 4.0), (0.9, 1.0), (0.9, 4.0)]
    for (alpha, t), (run,) in found.items():
        config = run.record["config"]
        assert run.record["evaluated_on"] == "validation" and config["purpose"] == "choose"
        assert config["hyperparameters"] == {"alpha": alpha, "temperature": t}
        assert (config["seed"], config["teacher"]) == (5, teacher.key)


def test_a_record_belongs_to_the_code_that_made_it(folders, monkeypatch):
    asked, version = [], results.code_version
    monkeypatch.setattr(results, "code_version", lambda *things: asked.append(set(things)) or version(*things))
    teacher = train(folders, epochs=1)
    train(folders, KD(), teacher=teacher, epochs=1)
    for method in (Scratch, KD):
        assert any({method, tiny_model, fitting.train_once, Dataset} <= things for things in asked), method
    monkeypatch.setattr(results, "code_version", lambda *things: "other code")
    assert train(folders, epochs=1).key != teacher.key


@pytest.mark.parametrize("name", ["scratch", *METHODS])
def test_the_stored_runs_were_trained_by_the_code_as_it_is(name):
    # Where this fails, the change needs the notebook's runs made anew, or shown to end in the same weights (README).
    files = (ROOT / "figures/runs").rglob(f"task1-mnist_student-{name}-*.json")  # those of the benchmarks, too
    stored = {json.loads(path.read_text())["config"]["code"] for path in files}
    method = METHODS.get(name, Scratch)
    assert stored == {results.code_version(method, mnist_student, fitting.train_once, Dataset)}


def test_code_that_comes_as_a_hyperparameter_counts_too():
    assert runs.code_parts(OnSubclasses(KD(), (0, 1))) == [KD] and runs.code_parts(KD()) == []
    assert runs.described(KD(0.3, 2.0)) == "KD(alpha=0.3, temperature=2.0)"


def test_a_run_recorded_on_the_way_is_the_shorter_run_bit_for_bit(tmp_path, monkeypatch):
    places = [{"runs": tmp_path / name, "cache": tmp_path / name / "cache"} for name in ("a", "b")]
    train(places[0], epochs=4, also_after=(1, 2))
    direct = train(places[1], epochs=2)
    monkeypatch.setattr(Distiller, "fit", lambda *a, **k: pytest.fail("trained again"))
    found = train(places[0], epochs=2)
    assert same(weights_of(found), weights_of(direct))
    assert {"metrics", "history", "training_accuracy"} <= set(found.record) == set(direct.record)
    for part in ("config", "metrics", "history", "training_accuracy"):
        assert found.record[part] == direct.record[part], part


@pytest.mark.parametrize("options", [{"schedule": "cosine"}, {"epochs": 2}])
def test_a_run_on_the_way_is_refused_where_it_would_not_be_the_shorter_run(folders, options):
    with pytest.raises(ValueError, match="also_after"):
        train(folders, **({"epochs": 4, "also_after": (2,)} | options))


def test_the_cosine_rate_falls_to_0(folders, monkeypatch):
    rates, fit = [], Distiller.fit

    def watched(self, *args, **options):
        result = fit(self, *args, **options)
        rates.append(float(self.optimizer.learning_rate))
        return result

    monkeypatch.setattr(Distiller, "fit", watched)
    train(folders, schedule="cosine")
    train(folders)
    assert rates == pytest.approx([0.0, 1e-3], abs=1e-9)


def test_several_teachers_teach_together(folders):
    teachers = tuple(train(folders, seed=seed) for seed in (1, 2))
    run = train(folders, Ensemble(), teacher=teachers)
    assert run.record["config"]["teacher"] == "+".join(teacher.key for teacher in teachers)
    with pytest.raises(ValueError, match="'kd' learns from one teacher, but received 2"):
        train(folders, KD(), teacher=teachers)
    alone = train(folders, KD(), teacher=teachers[0])
    assert run.record["history"] != alone.record["history"] and run.record["metrics"]["kl_to_teacher"] > 0


@dataclass(frozen=True)
class Sees(KD):
    name = "sees"
    teacher_sees: str = "same"


def test_a_method_may_have_the_teacher_look_at_another_picture(folders, monkeypatch):
    seen, fit = {}, fitting.fit_distiller

    def spy(student, method, split, **options):
        seen[method.teacher_sees] = np.array(options["teacher_signals"]["logits"])
        return fit(student, method, split, **options)

    teacher = train(folders, seed=1)
    monkeypatch.setattr(fitting, "fit_distiller", spy)
    for sees in ("same", "clean", "other"):
        train(folders, Sees(teacher_sees=sees), teacher=teacher, view=View(), epochs=2, seed=3)
    data = tiny_data().all_train
    plain = signals.teacher_signals(teacher.model(), data, folder=None)["logits"]
    np.testing.assert_allclose(seen["clean"], np.repeat(plain, 2, axis=0), atol=1e-5)
    views = signals.teacher_signals(teacher.model(), data, folder=None, view=View(), seed=3, epochs=2)["logits"]
    np.testing.assert_allclose(seen["same"], views, atol=1e-5)
    assert not np.allclose(seen["other"], views, atol=1e-3) and not np.allclose(seen["other"], seen["clean"], atol=1e-3)


def test_bad_arguments_are_refused_in_words(folders):
    with pytest.raises(ValueError, match="schedule is 'linear'"):
        train(folders, schedule="linear")
    with pytest.raises(ValueError, match="purpose is 'test'"):
        train(folders, purpose="test")
    with pytest.raises(ValueError, match="needs a teacher"):
        train(folders, KD())
    with pytest.raises(ValueError, match="teacher is a list"):
        train(folders, Ensemble(), teacher=[tiny_model(), tiny_model()])
    with pytest.raises(ValueError, match="views is 0"):
        train(folders, view=View(), views=0)


def of_width(width):
    def student(outputs=3):
        return keras.Sequential(
            [keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(width), layers.Dense(outputs, name="logits")]
        )

    return student


@pytest.mark.parametrize("build", [of_width(4), partial(tiny_model, outputs=3)])
def test_a_builder_whose_code_does_not_show_all_is_refused_and_not_taken_for_another(build, folders):
    with pytest.raises(ValueError, match="values that its code does not show"):
        training.train_and_evaluate(build, Scratch(), tiny_data(), epochs=1, **folders)
    assert not folders["runs"].exists()


def test_the_helpers_of_a_builder_of_one_s_own_count(folders, tmp_path, monkeypatch):
    source = """
import keras
from keras import layers

def body():
    return layers.Dense(8, "{activation}")

def student(outputs=3):
    return keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), body(), layers.Dense(outputs, name="logits")])
"""
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for activation in ("relu", "tanh"):
        name = f"own_network_of_{activation}"
        (tmp_path / f"{name}.py").write_text(source.format(activation=activation))
        module = importlib.import_module(name)
        assert [helper.__name__ for helper in runs.helpers_of(module.student)] == ["student", "body"]
        monkeypatch.setattr(module, "__name__", "own_network")  # the same file, edited in between
        for thing in (module.student, module.body):
            thing.__module__ = "own_network"
        monkeypatch.setitem(sys.modules, "own_network", module)
        run = training.train_and_evaluate(module.student, Scratch(), tiny_data(), epochs=1, **folders)
        found.append(run.record["config"]["code"])
    assert found[0] != found[1]
    assert runs.helpers_of(mnist_student) == []  # of this package, which code_version follows by itself


CHILD = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_training import tiny_data, tiny_model
from utils import training
from utils.methods import KD, Scratch
folder = Path({folder!r})
for seed in range(3):
    options = dict(seed=seed, epochs=2, batch_size=40, runs=folder / "runs", cache=folder / "cache")
    teacher = training.train_and_evaluate(tiny_model, Scratch(), tiny_data(), **options)
    training.train_and_evaluate(tiny_model, KD(), tiny_data(), teacher=teacher, **options)
print("finished")
"""


def _outcomes(folder):
    records = [json.loads(p.read_text()) for p in sorted((folder / "runs").glob("*.json"))]
    return {results.key_of(r["config"]): (r["metrics"], r["history"]) for r in records}


def test_killed_at_any_moment_it_goes_on_where_it_was_and_ends_the_same(tmp_path):
    def command(name):
        return [sys.executable, "-c", CHILD.format(tests=str(ROOT / "tests"), folder=str(tmp_path / name))]

    options = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}}
    subprocess.run(command("whole"), check=True, capture_output=True, **options)
    child = subprocess.Popen(command("cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "cut" / "runs").glob("task1*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished = _outcomes(tmp_path / "cut")
    assert 3 <= len(finished) < 6
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cut" / "runs").glob("*.json")}
    subprocess.run(command("cut"), check=True, capture_output=True, **options)
    assert _outcomes(tmp_path / "cut") == _outcomes(tmp_path / "whole")
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cut" / "runs").glob("*.json") if p.name in stamps}
    assert kept == stamps  # what was finished was not trained again


def test_equal_weights_are_equal_files_however_many_layers_were_made_before(tmp_path):
    def network():
        image = keras.Input((8, 8, 1), name="image")
        x = keras.layers.MaxPooling2D(2)(keras.layers.Conv2D(2, 3, name="conv")(image))
        x = keras.layers.Dropout(0.1, name="dropout")(keras.layers.MaxPooling2D(2)(x))
        return keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(x)), name="network")

    keras.backend.clear_session()
    first, second = network(), network()
    first.save_weights(tmp_path / "as Keras does first in a process.weights.h5")
    assert first.layers[2].name != second.layers[2].name
    second.set_weights(first.get_weights())
    names = [layer.name for layer in second.layers]
    for model, name in ((first, "a"), (second, "b")):
        runs.save_weights(model, tmp_path / f"{name}.weights.h5")
    digests = {results.file_digest(path) for path in tmp_path.glob("*.weights.h5")}
    assert len(digests) == 1 and [layer.name for layer in second.layers] == names
    third = network()
    third.load_weights(tmp_path / "b.weights.h5")
    assert all(map(np.array_equal, third.get_weights(), first.get_weights()))
