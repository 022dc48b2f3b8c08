"""Where a base's weights come from: the pretext task on a tiny network, kept once, read as what it says."""

import keras
import numpy as np
import pytest

from utils import models, pretraining
from utils.data.polyps import draw_polyps
from utils.models import _load
from utils.settings import settings

SIZE = 32


def tiny_base(outputs=2, size=SIZE, weights=None):
    image = keras.Input((size, size, 3), name="image")
    x = keras.layers.Conv2D(8, 3, strides=2, name="conv")(image)
    x = keras.layers.BatchNormalization(trainable=False, name="norm")(x)
    base = keras.Model(image, keras.layers.ReLU(name="relu")(x))
    if weights is not None:
        _load(base, weights, "tiny")
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(base.output)
    return keras.Model(image, keras.layers.Dense(outputs, name="logits")(pooled), name="tiny_base")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretext")
    return folder, pretraining.pretext_weights(tiny_base, size=SIZE, images=64, epochs=4, folder=folder)


def test_targets_are_standardised_and_tell_severity_stain_and_layout():
    drawn = draw_polyps(40, size=SIZE)
    targets = pretraining.pretext_targets(drawn)
    assert targets.shape == (40, 1 + 6 + 16) and targets.dtype == np.float32
    np.testing.assert_allclose(targets.mean(axis=0), 0, atol=1e-5)
    assert np.corrcoef(targets[:, 0], drawn.severity)[0, 1] > 0.999
    assert np.corrcoef(targets[:, 1], drawn.images[..., 0].mean(axis=(1, 2)))[0, 1] > 0.999
    assert np.corrcoef(targets[:, -16], drawn.masks[:, :8, :8].mean(axis=(1, 2)))[0, 1] > 0.999


def test_the_pretext_task_is_learned_and_its_weights_are_the_bases(made):
    _folder, path = made
    loss = pretraining.results.read_json(path.with_suffix(".json"))["loss"]
    assert len(loss) == 4 and loss[-1] < loss[0]
    fresh, started = tiny_base(), tiny_base(weights=path)
    assert not np.array_equal(fresh.get_layer("conv").get_weights()[0], started.get_layer("conv").get_weights()[0])
    norm = started.get_layer("norm")
    assert not norm.trainable  # it learned there, and is frozen from here on, with the statistics of these weights
    drawn = pretraining.to_float(draw_polyps(64, size=SIZE, seed=pretraining.PRETEXT_SEED).images)
    before = keras.Model(started.inputs[0], norm.input)(drawn).numpy()
    np.testing.assert_allclose(norm.moving_mean, before.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-4)


def test_the_weights_are_made_once_and_again_if_the_file_is_not_what_was_written(made, monkeypatch):
    folder, path = made
    options = {"size": SIZE, "images": 64, "epochs": 4, "folder": folder}
    with monkeypatch.context() as patched:
        patched.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("trained again"))
        assert pretraining.pretext_weights(tiny_base, **options) == path
        start = pretraining.find_start(tiny_base, "standin", **options)
    assert start.pretrained and start.weights == path and len(start.digest) == 12
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert pretraining.pretext_weights(tiny_base, **options) == path
    tiny_base(weights=path)  # whole again, or this would be an error


def test_the_digest_is_of_the_arrays_and_not_of_how_many_models_were_made_before(tmp_path):
    network = tiny_base()
    paths = [tmp_path / f"{k}.weights.h5" for k in range(3)]
    for path in paths[:2]:  # Keras counts: "functional_7", "functional_8"
        keras.Model(network.inputs[0], network.get_layer("pool").input).save_weights(path)
    conv = network.get_layer("conv")
    kernel, bias = conv.get_weights()
    kernel[0, 0, 0, 0] += 1e-6
    conv.set_weights([kernel, bias])
    keras.Model(network.inputs[0], network.get_layer("pool").input).save_weights(paths[2])
    assert len({pretraining.results.file_digest(path) for path in paths}) == 3
    same, too, other = map(pretraining.weights_digest, paths)
    assert same == too != other


def test_the_step_of_the_pretext_task_is_traced_once(monkeypatch, tmp_path):
    traced = []

    class Counted(pretraining.Adam):
        def apply(self, *given, **named):
            traced.append(1)
            return super().apply(*given, **named)

    monkeypatch.setattr(pretraining, "Adam", Counted)
    pretraining.pretext_weights(tiny_base, size=SIZE, images=64, epochs=2, folder=tmp_path)
    assert len(traced) == 1


def test_pretext_images_are_not_the_stand_ins_own(monkeypatch, tmp_path):
    seeds = []

    def noted(count, **options):
        seeds.append(options["seed"])
        return draw_polyps(count, **options)

    monkeypatch.setattr(pretraining, "draw_polyps", noted)
    monkeypatch.setattr(pretraining.results, "code_version", lambda *a: "code")
    pretraining.pretext_weights(tiny_base, size=SIZE, images=8, epochs=1, folder=tmp_path)
    assert seeds == [pretraining.PRETEXT_SEED] and pretraining.PRETEXT_SEED != 0


@pytest.mark.parametrize(("build", "parameters"), [
    (models.mhist_teacher, 23_568_898), (models.mhist_student, 2_260_546), (models.mhist_assistant, 7_039_554)
])  # fmt: skip
def test_networks_of_task_2(build, parameters, tmp_path):
    model = build(size=SIZE)
    assert model.count_params() == parameters and model.name == build.__name__
    frozen = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert frozen and not any(layer.trainable for layer in frozen)
    assert [layer.name for layer in model.layers[-3:]] == ["pool", "dropout", "logits"]
    black_and_white = np.stack([np.zeros((SIZE, SIZE, 3)), np.ones((SIZE, SIZE, 3))]).astype(np.float32)
    scaled = keras.Model(model.inputs[0], model.get_layer("scaling").output)(black_and_white).numpy()
    ends = (-1.0, 1.0) if build is not models.mhist_assistant else (-0.485 / 0.229, (1 - 0.485) / 0.229)
    np.testing.assert_allclose(scaled[:, 0, 0, 0], ends, rtol=1e-5)
    assert model(black_and_white).shape == (2, 2)


def test_weights_files_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"bad\.h5 does not fit MobileNetV2"):
        models.mhist_student(size=SIZE, weights=tmp_path / "bad.h5")
    with pytest.raises(FileNotFoundError, match=r"no weights file .*none\.h5"):
        models.mhist_student(size=SIZE, weights=tmp_path / "none.h5")
    with pytest.raises(ValueError, match="needs 32 pixels"):
        models.mhist_student(size=16)


REAL = sorted((settings.data / "weights").glob("mobilenet_v2*no_top*.h5"))


@pytest.mark.skipif(not REAL, reason="no weights of MobileNetV2 in data/weights/, which is never committed")
def test_a_real_file_fills_the_base_and_nothing_else():
    model = models.mhist_student(size=96, weights=REAL[0])
    keras_own = keras.applications.MobileNetV2((96, 96, 3), include_top=False, weights=str(REAL[0]))
    ours, theirs = model.get_weights(), keras_own.get_weights()
    assert len(ours) == len(theirs) + 2  # the head's kernel and bias
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=False))
    assert model.get_layer("Conv1").get_weights()[0].std() > 0.1  # trained filters are far from the small random ones
