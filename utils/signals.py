"""Teacher signals: what the teacher says of every view of every training image, computed once and kept on disk."""

import os
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from utils import results
from utils.data import pipeline
from utils.distiller import with_taps
from utils.progress import say


def weights_digest(model) -> str:
    """Digest of a model's weights, in order."""
    return results.digest(*model.get_weights())


def predict_logits(model, images: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """Logits [n, C] of uint8 images [n, H, W, C], scaled to [0, 1], in inference mode."""
    forward = tf.function(lambda batch: model(pipeline.to_float(batch), training=False))
    return np.concatenate([forward(images[i : i + batch_size]).numpy() for i in range(0, len(images), batch_size)])


def ask(teacher, split, *, taps, view, seed, views) -> dict[str, np.ndarray]:
    """What the teacher says of each view of each image, in inference mode: {name: [views, n, ...]}."""
    forward_all = with_taps(teacher, taps)
    forward = tf.function(lambda images: forward_all(images, training=False), reduce_retracing=True)
    found: dict[str, list] = {}
    for number in range(views):
        ordered = pipeline.batches(split, batch_size=500, seed=seed, first_epoch=number, view=view, shuffle=False)
        parts = [forward(batch["image"]) for batch in ordered]
        for name in parts[0]:
            found.setdefault(name, []).append(np.concatenate([part[name].numpy() for part in parts]))
        say(f"teacher signals: view {number + 1} of {views}")
    return {name: np.stack(per_view) for name, per_view in found.items()}


def _read(path: Path, names: set[str], shape: tuple[int, int]) -> dict[str, np.ndarray] | None:
    """The signals in a file, or None if there is none, or if it does not hold what its name says."""
    try:
        # Opened here: np.load leaves the file open where it turns out to be no archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as fault:
        print(f"The cached teacher signals {path.name} cannot be read ({fault}); they are computed again.")
        return None
    if set(found) != names or any(array.shape[:2] != shape for array in found.values()):
        print(f"The cached teacher signals {path.name} are not those of this split; they are computed again.")
        return None
    return found


def teacher_signals(
    teacher, split, *, folder: Path | None, taps=(), view=None, seed: int = 0, epochs: int = 1
) -> dict[str, np.ndarray]:
    """The teacher's logits, and the layers named in `taps`, for every image and view of a split.

    Args:
        teacher: keras model that ends in logits; run in inference mode.
        split: the images.
        folder: where the signals are kept, under a key made of the digests of the teacher's weights, of the
            images and of the view; None computes them without keeping.
        view: the augmentation the students will see, or None. The same (seed, epoch, index) is the same
            picture here and in the students' batches.
        epochs: how many views to prepare; without augmentation all epochs share one.

    Returns:
        {"logits": [views, n, C], tap: [views, n, ...]}, float32.
    """
    views = epochs if view is not None else 1
    config = {
        "teacher": weights_digest(teacher),
        "images": results.digest(split.images),
        "taps": list(taps),
        "view": repr(view),
        "seed": seed if view is not None else None,
        "views": views,
        "code": results.code_version(ask),
    }
    path = None if folder is None else Path(folder) / f"signals-{results.key_of(config)}.npz"
    found = None if path is None else _read(path, {"logits", *taps}, (views, len(split)))
    if found is None:
        found = ask(teacher, split, taps=tuple(taps), view=view, seed=seed, views=views)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
            try:
                np.savez(temporary, **found)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
    return found
