"""An exported student is the student: tested file by file, described by its card, whole or not there."""

import hashlib
import json

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from sklearn.metrics import roc_auc_score

from utils import export, results
from utils.binary import delong, positive_scores
from utils.data import Dataset, Split
from utils.models import mhist_student
from utils.predict import Refused, Student


def stripes(n, seed, classes):
    """Noise with one bright stripe of rows for each class; [n, 9, 8, 1]."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % classes).astype(np.int32)
    images = rng.integers(0, 120, (n, 9, 8, 1))
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 3] += 60
    return Split(images.astype(np.uint8), labels)


def stripes_data(classes=3):
    parts = [stripes(n, seed, classes) for seed, n in enumerate((60, 30, 200))]
    return Dataset("stripes", "made for tests", tuple("abc"[:classes]), *parts)


def student(classes=3, seed=0):
    """Sums each stripe, behind a convolution with dropout and batch normalisation, as real students have them."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((9, 8, 1))
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(keras.layers.ReLU()(x)))
    x = keras.layers.Dense(classes)(x)
    model = keras.Model(image, x, name="striped")
    model.layers[1].set_weights([np.full((3, 3, 1, 1), 1 / 9)])
    kernel = np.zeros((9, 8, classes), np.float32)
    for label in range(classes):
        kernel[3 * label : 3 * label + 3, :, label] = 1
    model.layers[-1].set_weights([kernel.reshape(72, classes), np.zeros(classes)])
    return model


@pytest.fixture(scope="module")
def data():
    return stripes_data()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("shipped")
    origin = {"method": "kd"}
    return folder, export.export_student(student(), folder, data, preparation="exact", rounds=3, origin=origin)


def test_a_file_says_by_name_what_goes_in_and_takes_any_number_of_images():
    content = export.to_litert(student(), ("float32",))["float32"]
    interpreter = Interpreter(model_content=content)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["output_0"]}}
    for number in (1, 5):
        images = np.random.default_rng(number).random((number, 9, 8, 1), np.float32)
        said = interpreter.get_signature_runner()(image=images)["output_0"]
        np.testing.assert_allclose(said, student()(images), atol=1e-4)


def test_three_files_and_a_card_with_their_digests(shipped, data):
    folder, card = shipped
    names = [f"striped-{name}.tflite" for name in export.FORMATS]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "card.json"])
    assert json.loads((folder / "card.json").read_text()) == card
    for name, file in zip(export.FORMATS, names, strict=True):
        content, entry = (folder / file).read_bytes(), card["files"][name]
        assert (entry["file"], entry["bytes"]) == (file, len(content))
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert 0 < entry["latency_ms"]["low"] <= entry["latency_ms"]["median"] <= entry["latency_ms"]["high"]
    assert card["input"]["shape"] == [9, 8, 1] and card["classes"] == ["a", "b", "c"]
    assert card["data"]["source"] == "made for tests" and card["origin"] == {"method": "kd"}
    assert card["cost"]["parameters"] == student().count_params() and card["calibrated_on"] == 60
    assert card["cost"]["activation_bytes"] == 4 * (5 * 72 + 3)  # float32: five layers of 9x8, then the logits


def test_the_memory_of_task_2s_student_is_known_and_that_of_an_unknown_layer_is_null():
    model = mhist_student(size=32)
    outputs = [layer.output.shape[1:] for layer in model.layers[1:]]  # after the input
    assert export._cost(model)["activation_bytes"] == 4 * sum(np.prod(shape) for shape in outputs)
    odd = keras.Sequential([keras.Input((9, 8, 1)), keras.layers.LeakyReLU()])
    assert export._cost(odd)["activation_bytes"] is None


def test_the_card_tells_what_each_file_really_scores(shipped, data):
    folder, card = shipped
    logits = student()(data.test.images.astype(np.float32) / 255, training=False).numpy()
    assert card["keras"]["accuracy"] == np.mean(logits.argmax(-1) == data.test.labels) > 0.9
    for name, entry in card["files"].items():
        found = Student(folder / entry["file"]).logits(data.test.images)
        assert entry["metrics"]["accuracy"] == np.mean(found.argmax(-1) == data.test.labels)
        assert entry["largest_difference"] == pytest.approx(np.abs(found - logits).max(), abs=1e-5)
        assert entry["largest_difference"] < {"float32": 1e-4, "dynamic": 0.5, "int8": 0.5}[name]
    assert card["files"]["int8"]["input"]["dtype"] == "int8" and card["files"]["int8"]["input"]["scale"] > 0
    assert card["files"]["int8"]["largest_difference"] > 1e-4  # or the weights were never rounded
    assert list(export.table(card).index) == ["Keras", *export.FORMATS]


def test_two_classes_are_scored_by_auc_too(tmp_path):
    card = export.export_student(
        student(2), tmp_path, stripes_data(2), preparation="exact", formats=("float32",), rounds=3
    )
    assert 0.9 < card["keras"]["auc"] == card["files"]["float32"]["metrics"]["auc"]
    assert "test AUC" in export.table(card) and card["calibrated_on"] == 0
    assert export.table(card).loc["float32", "95% over images"] == "[1.000, 1.000]"  # no image is ranked wrongly


def test_the_auc_of_a_file_has_its_interval_over_images():
    labels = np.tile([0, 1], 50)
    logits = np.random.default_rng(0).normal(size=(100, 2)) + np.eye(2)[labels]
    found = export._quality(labels, logits, threshold=None)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))
    low, high = found["auc_interval"]
    error = delong(labels, positive_scores(logits), np.full(100, 0.5))["standard_error"]
    np.testing.assert_allclose([low, high], found["auc"] + 1.96 * error * np.array([-1, 1]), atol=0.01)
    assert 0.5 < low < found["auc"] < high < 1


def test_the_threshold_of_validation_decides_what_the_shipped_student_calls(tmp_path):
    two = stripes_data(2)
    logits = student(2)(two.test.images.astype(np.float32) / 255, training=False).numpy()
    scores = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    threshold = float(np.quantile(scores, 0.9))
    card = export.export_student(
        student(2), tmp_path, two, preparation="exact", formats=("float32",), rounds=3, threshold=threshold
    )
    shipped = Student(tmp_path / card["files"]["float32"]["file"])
    called = shipped.call(shipped.probabilities(two.test.images))
    assert 0 < called.sum() < 0.2 * len(called) < (scores >= 0.5).sum()  # the likelier class would be another for many
    found = card["files"]["float32"]["metrics"]
    assert found["accuracy"] == np.mean(called == two.test.labels) < 0.8
    assert found["balanced_accuracy"] == np.mean([np.mean(called[two.test.labels == c] == c) for c in (0, 1)])
    strange, doubtful = (np.flatnonzero(chosen)[0] for chosen in (called == 1, (called == 0) & (scores > 0.5)))
    for i, name in ((strange, "b"), (doubtful, "a")):
        Image.fromarray(two.test.images[i, ..., 0]).save(tmp_path / "one.png")
        answer = shipped.classify(tmp_path / "one.png")
        assert answer["class"] == name and answer["probability"] == answer["probabilities"][name]


def test_a_file_that_computes_something_else_is_not_written(tmp_path, data, monkeypatch):
    real = export.predict_logits
    monkeypatch.setattr(export, "predict_logits", lambda *given: real(*given) + np.float32(0.01))
    with pytest.raises(ValueError, match="not the model"):
        export.export_student(student(), tmp_path / "new", data, preparation="exact", formats=("float32",), rounds=3)
    assert not (tmp_path / "new").exists()


def test_an_export_cut_short_leaves_nothing_that_could_be_believed(tmp_path, data, monkeypatch):
    options = {"preparation": "exact", "formats": ("float32",), "rounds": 3}
    export.export_student(student(), tmp_path, data, **options)
    other = student()
    other.layers[-1].bias.assign([1.0, 0.0, 0.0])

    def cut(path, card):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_json", cut)
    with pytest.raises(KeyboardInterrupt):
        export.export_student(other, tmp_path, data, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "striped-float32.tflite"]
    with pytest.raises(Refused, match="sha256"):
        Student(tmp_path / "striped-float32.tflite")


def test_a_disk_that_fails_leaves_no_part_of_a_file(tmp_path, data, monkeypatch):
    def full(*names):
        raise OSError("no space left")

    monkeypatch.setattr(results.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        export.export_student(student(), tmp_path, data, preparation="exact", formats=("float32",), rounds=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"formats": ("float16",)}, "float16"),
        ({"formats": ()}, "formats"),
        ({"calibrate_on": 0}, "at least 1"),
        ({"preparation": "guess"}, "preparation"),
        ({"preparation": "digit"}, r"28 x 28 grey pixels .* takes \(9, 8, 1\)"),
        ({"data": stripes_data(2)}, "2 classes"),
        ({"threshold": 0.4}, "threshold"),  # of three classes
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path, data, changed, message):
    options = {"data": data, "preparation": "exact", "folder": tmp_path / "new"} | changed
    with pytest.raises(ValueError, match=message):
        export.export_student(student(), **options)
    assert not (tmp_path / "new").exists()


def test_a_run_is_no_model(tmp_path, data):
    with pytest.raises(ValueError, match=r"Of a Run, pass run\.model\(\)"):
        export.export_student(object(), tmp_path / "new", data, preparation="exact")


def test_another_student_does_not_take_the_place_of_the_first_one_s_card(shipped, data):
    folder, card = shipped
    other = keras.models.clone_model(student())
    other = keras.Model(other.inputs, other.outputs, name="other")
    with pytest.raises(ValueError, match=r"holds the student 'striped'.*'other' into a folder of its own"):
        export.export_student(other, folder, data, preparation="exact", formats=("float32",), rounds=3)
    assert Student(folder / card["files"]["float32"]["file"]).card == results.read_json(folder / "card.json")


def test_int8_needs_images_and_conversion_is_silent(capfd):
    with pytest.raises(ValueError, match="calibrate on"):
        export.to_litert(student(), ("int8",))
    shape = student().input_shape[1:]
    for wrong in (np.zeros((2, *shape), np.float32), np.zeros((2, 5, *shape[1:]), np.uint8)):
        with pytest.raises(ValueError, match=r"calibration is .* is needed"):
            export.to_litert(student(), ("int8",), wrong)
    export.to_litert(student(), ("float32",))
    assert capfd.readouterr() == ("", "")
