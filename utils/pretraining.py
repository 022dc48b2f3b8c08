"""Where the weights of Task 2's bases come from: ImageNet, a file, a pretext task on drawn images, or nowhere.

A number that a network reaches by transfer learning says as much of its start as of its training, so every start has a
label, which stands beside the numbers.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf

from utils import results
from utils.data.dataset import Split
from utils.data.download import giving_up
from utils.data.pipeline import batches, steps, to_float
from utils.data.polyps import draw_polyps
from utils.fitting import Adam
from utils.progress import ProgressBar
from utils.settings import settings

SOURCES = ("imagenet", "standin", "random")
PRETEXT_SEED = 1000  # of the pretext images: others than the stand-in's own
PRETEXT_BATCH, PRETEXT_RATE = 32, 1e-3
GRID = 4  # the layout is told as the share of crypt in each of 4 x 4 fields
# Statistics over the last few dozen batches: MobileNetV2's own 0.999 would still remember the random start.
PRETEXT_MOMENTUM = 0.9
SETTLING_IMAGES = 128  # that batch normalisation gets its final statistics from


@contextmanager
def _as_written():
    """Graphs run as they were written, and so with the same bits as without a graph: none is rewritten to be faster."""
    before = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})


def settle_batch_norm(model: keras.Model, images: np.ndarray) -> None:
    """Gives batch normalisation the statistics of some images uint8 [n, H, W, 3], layer after layer in one pass.

    Where it is to stay frozen, its statistics must be those of the weights it stands between. A base without
    pretraining has none, and its signal would die on the way; after a short one the moving averages lag behind.

    The pass is a graph, which lets go of what later layers do not read: called as it is, a network keeps the output of
    every layer to the end, which is some 16 GiB for ResNet50V2 and 128 images of 224 pixels.
    """
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [layer.momentum for layer in normalisations]
    for layer in normalisations:
        layer.trainable, layer.momentum = True, 0.0
    with _as_written():
        tf.function(lambda x: model(to_float(x), training=True))(tf.constant(images))
    for layer, momentum in zip(normalisations, before, strict=True):
        layer.trainable, layer.momentum = False, momentum


@dataclass(frozen=True)
class Start:
    """What a base begins with: `weights` as the functions of `utils.models` take them, and what to call it."""

    weights: str | Path | None
    label: str
    digest: str | None = None

    @property
    def pretrained(self) -> bool:
        return self.weights is not None


def find_start(build_model, source: str, *, size: int, images: int, epochs: int, folder: Path | None = None) -> Start:
    """The start of one architecture.

    Args:
        build_model: a function of `utils.models`.
        source: "imagenet" takes Keras's download, else a file in data/weights/ whose name begins with the
            architecture's, else nothing, and says so. "standin" trains the base on drawn images, once. "random" is no
            pretraining.
        size: pixels of the images.
        images, epochs: of the pretext task.
        folder: where pretext weights are kept; the cache by default.
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; it can be one of {SOURCES}.")
    if source == "random":
        return Start(None, "random weights")
    if source == "standin":
        path = pretext_weights(build_model, size=size, images=images, epochs=epochs, folder=folder)
        return Start(path, "pretext task on drawn polyps", weights_digest(path))
    try:
        with giving_up():
            build_model(size=size, weights="imagenet")
    except Exception as fault:  # Keras raises a bare Exception where the download fails
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())
    else:
        return Start("imagenet", "ImageNet (Keras)")
    architecture = build_model().name
    files = (settings.data / "weights").glob(f"{FILE_NAMES[architecture]}*.h5")
    found = sorted(files, key=lambda path: ("no_top" not in path.name and "notop" not in path.name, path.name))
    if found:
        build_model(size=size, weights=found[0])  # a file that does not fit is an error now, not after the teacher
        print(f"WEIGHTS: {architecture} starts from {found[0].name}, since Keras's could not be had ({reason}).")
        return Start(found[0], f"the file {found[0].name}", results.file_digest(found[0])[:12])
    print(
        f"WEIGHTS: {architecture} starts from RANDOM weights: Keras's could not be had ({reason}), and data/weights/ "
        f"has no file {FILE_NAMES[architecture]}*.h5. What follows is not transfer learning."
    )
    return Start(None, "random weights")


def weights_digest(path: Path) -> str:
    """What tells the arrays in a file of Keras's `save_weights` from others. The bytes of the file would not do: it
    holds the model's name too, in which Keras counts the models that this process has made before."""
    arrays = []
    with h5py.File(path) as file:
        file.visititems(lambda _, thing: arrays.append(thing[()]) if isinstance(thing, h5py.Dataset) else None)
    return results.digest(*arrays, length=12)


def start_label(starts: dict[str, Start]) -> str:
    """What to call the starts of several networks together: one name if all have it, else each network's own."""
    labels = {name.removeprefix("mhist_"): start.label for name, start in starts.items()}
    if len(set(labels.values())) == 1:
        return next(iter(labels.values()))
    return "; ".join(f"{name}: {label}" for name, label in labels.items())


# As Keras calls its files without top.
FILE_NAMES = {"mhist_teacher": "resnet50v2", "mhist_student": "mobilenet_v2", "mhist_assistant": "densenet121"}


def pretext_targets(polyps) -> np.ndarray:
    """What a base is to tell of a drawn image, standardised, float32 [n, 1 + 6 + 16]: its severity, its stain (mean and
    deviation of each colour) and its layout (share of crypt in each field of a grid)."""
    n, size = polyps.masks.shape[:2]
    stain = np.concatenate([part(polyps.images / 255.0, axis=(1, 2)) for part in (np.mean, np.std)], axis=1)
    cut = size - size % GRID
    fields = polyps.masks[:, :cut, :cut].reshape(n, GRID, cut // GRID, GRID, cut // GRID).mean(axis=(2, 4))
    told = np.column_stack([polyps.severity, stain, fields.reshape(n, -1)])
    return ((told - told.mean(axis=0)) / (told.std(axis=0) + 1e-6)).astype(np.float32)


def pretext_weights(build_model, *, size: int, images: int, epochs: int, folder: Path | None = None) -> Path:
    """A file of base weights, trained to regress `pretext_targets` of drawn images that no split of the stand-in has.

    It is made once for each architecture, size and recipe. Batch normalisation learns here; afterwards it is frozen.
    """
    code = results.code_version(pretext_weights, draw_polyps, build_model)
    name = f"{build_model.__name__}-{size}px-{images}x{epochs}-{code}"
    path = Path(folder or settings.cache.parent / "pretext") / f"{name}.weights.h5"
    known = results.read_json(path.with_suffix(".json")) or {}
    if path.is_file() and known.get("sha256") == results.file_digest(path):
        return path
    drawn = draw_polyps(images, size=size, seed=PRETEXT_SEED)
    targets = tf.constant(pretext_targets(drawn))
    keras.utils.set_random_seed(PRETEXT_SEED)
    network = build_model(size=size)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable, layer.momentum = True, PRETEXT_MOMENTUM
    pooled = network.get_layer("pool")
    learner = keras.Model(network.inputs[0], keras.layers.Dense(targets.shape[1])(pooled.output))
    learner.compile(Adam(PRETEXT_RATE), "mse")
    learner.optimizer.build(learner.trainable_variables)  # before the step is traced, or it would be traced twice
    split = Split(drawn.images, np.zeros(images, np.int32))
    shown = batches(split, batch_size=PRETEXT_BATCH, seed=PRETEXT_SEED, epochs=epochs)
    learner.fit(
        shown.map(lambda batch: (batch["image"], tf.gather(targets, batch["index"]))),
        epochs=epochs,
        steps_per_epoch=steps(images, PRETEXT_BATCH),
        shuffle=False,
        verbose=0,
        callbacks=[ProgressBar(f"pretext task, {build_model.__name__}", images)],
    )
    settle_batch_norm(network, drawn.images[:SETTLING_IMAGES])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    try:
        keras.Model(network.inputs[0], pooled.input).save_weights(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    note = {"sha256": results.file_digest(path), "loss": learner.history.history["loss"]}
    results.write_json(path.with_suffix(".json"), note)
    return path
