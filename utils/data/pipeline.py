"""From a Split to batches: tf.data over whole batches of indices.

An element is a batch from the start: one function cuts its indices out of the epoch's order and gathers everything
from tensors, which is several times faster than a map over single images. Images stay uint8 in memory, or on disk
where they are mapped from there, and become float on the fly. Order and views are pure functions of (seed, epoch).
"""

import numpy as np
import tensorflow as tf

from utils.data.dataset import Split
from utils.data.views import CPU, ORDER, StainView, View, augment, partners, seed_of, to_float

__all__ = ["StainView", "View", "augment", "batches", "steps", "to_float"]

PREFETCH = 4  # batches: enough to hide the start of an epoch


def steps(n: int, batch_size: int) -> int:
    """Batches in one epoch of n images, the last partial one counted."""
    if n < 1 or batch_size < 1:
        raise ValueError(f"{n} images in batches of {batch_size}: both must be at least 1")
    return -(-n // batch_size)


def batches(
    split: Split,
    *,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    first_epoch: int = 0,
    shuffle: bool = True,
    view: View | StainView | None = None,
    views: int | None = None,
    signals: dict[str, np.ndarray] | None = None,
) -> tf.data.Dataset:
    """Epochs first_epoch, …, first_epoch + epochs - 1 of a split, one after the other, in one dataset.

    For `fit`: `model.fit(data, epochs=epochs, steps_per_epoch=steps(len(split), batch_size))`. Epoch e is the same
    whichever epoch one starts from, so a run can be taken up again.

    Args:
        split: the images.
        batch_size: at least 1. The last batch of an epoch may be smaller; none holds images of two epochs.
        seed: of the order and of the views.
        epochs: at least 1.
        first_epoch: at least 0.
        shuffle: a new order for each epoch, or the order of the split.
        view: augmentation; None for the images as they are.
        views: how many views each image has: epoch e shows view e mod views. None: a new view for each epoch.
        signals: what a teacher said: name → array [views, n, ...]. Signal [v, i] belongs to view v of image i; without
            `views`, to epoch first_epoch + v. One view serves every epoch, which is right only where the images are
            not augmented.

    Yields:
        {"image": float32 [b, h, w, c] in [0, 1], "label": int32 [b], "index": int64 [b], the position in the split,
        "epoch": int64 []}; with subclasses in the split "subclass": int32 [b], and with signals
        "teacher": {name: [b, ...]}.
    """
    n = len(split)
    per_epoch = steps(n, batch_size)
    if epochs < 1 or first_epoch < 0 or (views is not None and views < 1):
        raise ValueError(
            f"epochs is {epochs}, first_epoch {first_epoch}, views {views}: they must be at least 1, 0 and 1 (or None)"
        )
    for name, array in (signals or {}).items():
        _check_signal(name, array, n, views or epochs, view)

    images = _images_of(split)
    with tf.device(CPU):  # captured by the functions below as tensors: never copied into a graph
        labels = tf.constant(split.labels)
        subclasses = None if split.subclasses is None else tf.constant(split.subclasses)
    height, width = split.images.shape[1:3]

    def seen(index, table, blend):
        image = to_float(images(index))
        if view is None:
            return image
        image = view.show(image, tf.gather(table, index))
        if not view.mixup:
            return image
        partner, share = (tf.gather(part, index) for part in blend)
        share = share[:, None, None, None]
        return share * image + (1 - share) * view.show(to_float(images(partner)), tf.gather(table, partner))

    def one_epoch(epoch):
        order = tf.range(n, dtype=tf.int64)
        if shuffle:
            order = tf.random.experimental.stateless_shuffle(order, seed_of(seed, epoch, stream=ORDER))
        number = epoch if views is None else epoch % views
        table = blend = None
        if view is not None:
            table = view.draw(seed=seed, epoch=number, size=n, height=height, width=width)
            blend = partners(seed, number, n) if view.mixup else None
        first = first_epoch if views is None else 0
        said = {name: _of_view(array, number - first) for name, array in (signals or {}).items()}

        def one_batch(step):
            index = order[step * batch_size : (step + 1) * batch_size]
            image = seen(index, table, blend)
            batch = {"image": image, "label": tf.gather(labels, index), "index": index, "epoch": epoch}
            if subclasses is not None:
                batch["subclass"] = tf.gather(subclasses, index)
            if said:
                batch["teacher"] = {name: tf.gather(values, index) for name, values in said.items()}
            return batch

        return tf.data.Dataset.range(per_epoch).map(one_batch)

    data = tf.data.Dataset.range(first_epoch, first_epoch + epochs).flat_map(one_epoch)
    data = data.apply(tf.data.experimental.assert_cardinality(epochs * per_epoch)).prefetch(PREFETCH)
    options = tf.data.Options()
    options.deterministic = True
    # One thread of its own keeps the pipeline out of the way of the training step, which wants all cores.
    options.threading.private_threadpool_size = 1
    options.autotune.enabled = False
    return data.with_options(options)


def _images_of(split: Split):
    """A function index [b] → uint8 images [b, h, w, c]; of a file that is mapped into memory it reads only those."""
    if not isinstance(split.images, np.memmap):
        with tf.device(CPU):
            images = tf.constant(split.images)
        return lambda index: tf.gather(images, index)

    def gathered(index):
        found = tf.numpy_function(lambda rows: split.images[rows], [index], tf.uint8)
        found.set_shape((None, *split.images.shape[1:]))
        return found

    return gathered


def _of_view(array: np.ndarray, number: tf.Tensor) -> tf.Tensor:
    """The signal of one view, [n, ...]. Only this part of an array that lies on disk is read into memory."""

    def read(number):
        return np.ascontiguousarray(array[number if len(array) > 1 else 0])

    part = tf.numpy_function(read, [number], array.dtype)
    part.set_shape(array.shape[1:])
    return part


def _check_signal(name: str, array: np.ndarray, n: int, views: int, view) -> None:
    if array.ndim < 2 or array.shape[1] != n or array.shape[0] not in (1, views):
        raise ValueError(
            f"signal {name!r} has shape {array.shape}; expected [views, n, ...] with n = {n:,} images "
            f"and 1 view or one for each of {views} epochs or views"
        )
    if view is not None and array.shape[0] != views:
        raise ValueError(
            f"signal {name!r} has 1 view, but the images are shown in {views} views: "
            f"compute one view of the signal for each"
        )
