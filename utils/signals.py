"""Teacher signals: what the teacher says of every view of every training image, computed once and kept on disk."""

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from utils import results
from utils.data import pipeline
from utils.distiller import signal_shapes, with_taps
from utils.progress import say

BATCH = 250  # images asked about at once


def weights_digest(model) -> str:
    """Digest of a model's weights, in order."""
    return results.digest(*model.get_weights())


def predict_logits(model, images: np.ndarray, batch_size: int = BATCH) -> np.ndarray:
    """Logits [n, C] of uint8 images [n, H, W, C], scaled to [0, 1], in inference mode."""
    forward = tf.function(lambda batch: model(pipeline.to_float(batch), training=False))
    return np.concatenate([forward(images[i : i + batch_size]).numpy() for i in range(0, len(images), batch_size)])


def ask(teacher, split, *, taps: dict, view, seed, found: dict[str, np.ndarray]) -> None:
    """Fills `found`, {name: [views, n, ...]}, with what the teacher, in inference mode, says of each view."""
    forward_all = with_taps(teacher, taps)
    forward = tf.function(lambda images: forward_all(images, training=False), reduce_retracing=True)
    views = len(next(iter(found.values())))
    for number in range(views):
        ordered = pipeline.batches(split, batch_size=BATCH, seed=seed, first_epoch=number, view=view, shuffle=False)
        for batch in ordered:
            first, said = int(batch["index"][0]), forward(batch["image"])
            for name, array in found.items():
                array[number, first : first + len(said[name])] = said[name].numpy()
        say(f"teacher signals: view {number + 1} of {views}")


def _open(path: Path, shape: tuple) -> np.ndarray | None:
    """The signals in a file, mapped into memory; None if there is none, or if it does not hold what its name says."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as fault:
        print(f"The cached teacher signals {path.name} cannot be read ({fault}); they are computed again.")
        return None
    if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype != np.float32:
        print(f"The cached teacher signals {path.name} are not those of this split; they are computed again.")
        return None
    return found


def teacher_signals(
    teacher, split, *, folder: Path | None, taps: dict | None = None, view=None, seed: int = 0, epochs: int = 1
) -> dict[str, np.ndarray]:
    """The teacher's logits, and the layers named in `taps`, for every image and view of a split.

    Args:
        teacher: keras model that ends in logits; run in inference mode.
        split: the images.
        folder: where each signal is kept as a file of its own, under a key made of the digests of the teacher's
            weights, of the images and of the view; None computes them without keeping.
        taps: {name: layer of the teacher}.
        view: the augmentation the students will see, or None. The same (seed, epoch, index) is the same
            picture here and in the students' batches.
        epochs: how many views to prepare; without augmentation all epochs share one.

    Returns:
        {"logits": [views, n, C], name: [views, n, ...]}, float32; files stay on disk until they are read.
    """
    taps = taps or {}
    layers = {"logits": None} | taps
    views = epochs if view is not None else 1
    shapes = {name: (views, len(split), *shape) for name, shape in signal_shapes(teacher, taps).items()}
    config = {
        "teacher": weights_digest(teacher),
        "images": results.digest(split.images),
        "view": repr(view),
        "seed": seed if view is not None else None,
        "views": views,
        "code": results.code_version(ask),
    }
    if folder is None:
        found = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        ask(teacher, split, taps=taps, view=view, seed=seed, found=found)
        return found
    # By layer, not by the name that one method gives it, so that all methods find it.
    stem = f"signals-{results.key_of(config)}"
    paths = {name: Path(folder) / f"{stem}-{layer or 'output'}.npy" for name, layer in layers.items()}
    missing = {name for name, path in paths.items() if _open(path, shapes[name]) is None}
    if missing:
        Path(folder).mkdir(parents=True, exist_ok=True)
        temporary = {name: paths[name].with_name(f".{os.getpid()}-{paths[name].name}") for name in missing}
        try:
            found = {
                name: np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shapes[name])
                for name, path in temporary.items()
            }
            wanted = {name: layer for name, layer in taps.items() if name in missing}
            ask(teacher, split, taps=wanted, view=view, seed=seed, found=found)
            for name in missing:
                found.pop(name).flush()
                os.replace(temporary[name], paths[name])
        finally:
            for path in temporary.values():
                path.unlink(missing_ok=True)
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def joint_signals(teachers, split, **options) -> dict[str, np.ndarray]:
    """Signals of several teachers as of one: "logits" are the log of their mean probabilities, and "members" the
    logits of each, [views, n, M, C]. The options are those of `teacher_signals`; taps are not possible."""
    members = np.stack([teacher_signals(teacher, split, **options)["logits"] for teacher in teachers], axis=2)
    mean = np.exp(members - np.logaddexp.reduce(members, axis=-1, keepdims=True)).mean(axis=2)
    return {"logits": np.log(np.maximum(mean, np.finfo(np.float32).tiny)), "members": members}
