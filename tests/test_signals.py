"""Teacher signals: the right ones for each view, kept whole, never trusted blindly."""

import keras
import numpy as np
import pytest
from keras import layers
from scipy import special

from utils import signals
from utils.data import Split, pipeline


def network(seed=0):
    keras.utils.set_random_seed(seed)
    body = [layers.Flatten(), layers.Dense(5, "relu", name="fc"), layers.Dropout(0.5), layers.Dense(3, name="logits")]
    return keras.Sequential([keras.Input((6, 6, 1)), *body])


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (11, 6, 6, 1)).astype(np.uint8), np.arange(11, dtype=np.int32) % 3)


def test_without_augmentation_one_view_serves_and_it_is_the_teachers_inference(split):
    teacher = network()
    found = signals.teacher_signals(teacher, split, folder=None, epochs=5, taps={"feature": "fc"})
    expected = teacher(split.images / np.float32(255), training=False)
    np.testing.assert_allclose(found["logits"], expected[None], atol=1e-5)
    assert found["feature"].shape == (1, 11, 5)


def test_each_view_is_of_the_picture_the_student_will_see(split):
    teacher, view = network(), pipeline.View()
    found = signals.teacher_signals(teacher, split, folder=None, view=view, seed=3, epochs=2)
    assert found["logits"].shape == (2, 11, 3)
    joined = pipeline.batches(split, batch_size=4, seed=3, epochs=2, view=view, signals=found)
    for batch in joined:
        live = teacher(batch["image"], training=False)
        np.testing.assert_allclose(batch["teacher"]["logits"], live, atol=1e-5)


def test_signals_are_kept_and_found_again(split, tmp_path):
    first = signals.teacher_signals(network(), split, folder=tmp_path)
    written = [(p.name, p.stat().st_mtime_ns) for p in tmp_path.iterdir()]
    again = signals.teacher_signals(network(), split, folder=tmp_path)
    np.testing.assert_array_equal(first["logits"], again["logits"])
    assert len(written) == 1 and written == [(p.name, p.stat().st_mtime_ns) for p in tmp_path.iterdir()]


@pytest.mark.parametrize("change", ["teacher", "images", "view", "seed"])
def test_anything_else_has_signals_of_its_own(split, tmp_path, change):
    view = pipeline.View()
    signals.teacher_signals(network(), split, folder=tmp_path, view=view, seed=1, epochs=2)
    teacher = network(1) if change == "teacher" else network()
    other = Split(255 - split.images, split.labels) if change == "images" else split
    options = {"view": view, "seed": 1, "epochs": 2}
    options |= {"view": {"view": pipeline.View(shift=1.0)}, "seed": {"seed": 2}}.get(change, {})
    signals.teacher_signals(teacher, other, folder=tmp_path, **options)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_or_foreign_file_is_computed_again(split, tmp_path, capsys):
    first = {"logits": np.array(signals.teacher_signals(network(), split, folder=tmp_path)["logits"])}  # not mapped
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    again = signals.teacher_signals(network(), split, folder=tmp_path)
    np.testing.assert_array_equal(first["logits"], again["logits"])
    assert "cannot be read" in capsys.readouterr().out
    np.save(path, np.zeros((1, 4, 3), np.float32))
    again = signals.teacher_signals(network(), split, folder=tmp_path)
    np.testing.assert_array_equal(first["logits"], again["logits"])
    assert "not those of this split" in capsys.readouterr().out


def test_a_layer_asked_for_later_is_kept_beside_the_logits_whatever_a_method_calls_it(split, tmp_path):
    first = signals.teacher_signals(network(), split, folder=tmp_path)
    (logits,) = tmp_path.iterdir()
    written = logits.stat().st_mtime_ns
    found = signals.teacher_signals(network(), split, folder=tmp_path, taps={"hint": "fc"})
    assert len(list(tmp_path.iterdir())) == 2 and logits.stat().st_mtime_ns == written
    again = signals.teacher_signals(network(), split, folder=tmp_path, taps={"feature": "fc"})
    np.testing.assert_array_equal(again["feature"], found["hint"])
    np.testing.assert_array_equal(again["logits"], first["logits"])
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_teacher_leaves_nothing_behind(split, tmp_path, monkeypatch):
    there = []

    def interrupted(line):
        there.extend(path.name for path in tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(signals, "say", interrupted)
    with pytest.raises(KeyboardInterrupt):
        signals.teacher_signals(network(), split, folder=tmp_path)
    assert there and all(name.startswith(".") for name in there)  # SIGKILL clears nothing up: no file that is trusted
    assert not list(tmp_path.iterdir())


def test_several_teachers_answer_with_their_mean_probability(split, tmp_path):
    teachers = network(1), network(2)
    found = signals.joint_signals(teachers, split, folder=tmp_path)
    each = [signals.teacher_signals(teacher, split, folder=tmp_path)["logits"] for teacher in teachers]
    np.testing.assert_array_equal(found["members"], np.stack(each, axis=2))
    mean = np.mean([special.softmax(logits, axis=-1) for logits in each], axis=0)
    np.testing.assert_allclose(special.softmax(found["logits"], axis=-1), mean, rtol=1e-5)


def test_predicted_logits_are_those_of_the_scaled_images(split):
    model = network()
    found = signals.predict_logits(model, split.images, batch_size=4)
    np.testing.assert_allclose(found, model(split.images / np.float32(255), training=False), atol=1e-5)
