"""From a Split to batches: tf.data over whole batches of indices.

An element is a batch from the start: one function cuts its indices out of the epoch's order and gathers everything
from tensors, which is several times faster than a map over single images. Images stay uint8 in memory and become
float on the fly. The order and the views are pure functions of (seed, epoch), so that view v of image i is the same
picture for the teacher and for every student, in this run and the next.
"""

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from utils.data.dataset import Split

CPU = "/CPU:0"  # tf.data runs there; what is drawn elsewhere must be drawn there too, to be equal bit for bit
PREFETCH = 4  # batches: enough to hide the start of an epoch
ORDER, VIEWS, PARTNERS, SHARES = range(4)  # streams of random numbers
STREAMS = 4


@dataclass(frozen=True)
class View:
    """The range of a random geometric change of an image; never a flip, since digits are not symmetric.

    Attributes:
        shift: pixels, at least 0: right and down by a uniform draw from [-shift, shift] each.
        rotation: degrees, 0 to 180: about the centre, counter-clockwise by a uniform draw from [-rotation, rotation].
        zoom: in [0, 1): enlarged by a factor drawn uniformly from [1 - zoom, 1 + zoom].
        shear: degrees, 0 to 45: rows slide along each other by the tangent of a uniform draw from [-shear, shear].
        mixup: whether `batches` then blends each image with that of another index, half of itself or more.
    """

    shift: float = 2.0
    rotation: float = 10.0
    zoom: float = 0.1
    shear: float = 0.0
    mixup: bool = False

    def __post_init__(self):
        if not (self.shift >= 0 and math.isfinite(self.shift)):
            raise ValueError(f"shift is {self.shift}; it is a number of pixels, at least 0")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation is {self.rotation}; it is an angle of 0 to 180 degrees")
        if not 0 <= self.zoom < 1:
            raise ValueError(f"zoom is {self.zoom}; it must lie in [0, 1), since the factor goes down to 1 - zoom")
        if not 0 <= self.shear <= 45:
            raise ValueError(f"shear is {self.shear}; it is an angle of 0 to 45 degrees")


def steps(n: int, batch_size: int) -> int:
    """Batches in one epoch of n images, the last partial one counted."""
    if n < 1 or batch_size < 1:
        raise ValueError(f"{n} images in batches of {batch_size}: both must be at least 1")
    return -(-n // batch_size)


def to_float(images) -> tf.Tensor:
    """Images uint8 → float32 in [0, 1]."""
    # A product: a quotient is rewritten to one inside a graph, and would differ from itself run eagerly.
    return tf.cast(images, tf.float32) * np.float32(1 / 255)


def transforms(view: View, *, seed, epoch, size: int, height: int, width: int) -> tf.Tensor:
    """The epoch's table of views: row i is the projective transform of image i, float32 [size, 8].

    A row (a0, a1, a2, b0, b1, b2, 0, 0) sends the output pixel (x, y) to the input point
    (a0 x + a1 y + a2, b0 x + b1 y + b2): p = M · (q - centre - shift) + centre, where M is the shear after the
    rotation by -angle, divided by the factor.
    """
    with tf.device(CPU):
        draws = tf.random.stateless_uniform([size, 5], _seed_of(seed, epoch, stream=VIEWS), -1.0, 1.0)
        ranges = [view.shift, view.shift, math.radians(view.rotation), view.zoom, math.radians(view.shear)]
        right, down, angle, factor, slant = tf.unstack(draws * ranges + [0.0, 0.0, 0.0, 1.0, 0.0], axis=1)
        cos, sin, slope = tf.cos(angle) / factor, tf.sin(angle) / factor, tf.tan(slant)
        a0, a1, b0, b1 = cos + slope * sin, slope * cos - sin, sin, cos
        x, y = (width - 1) / 2, (height - 1) / 2
        zero = tf.zeros_like(cos)
        return tf.stack(
            [
                *(a0, a1, x - a0 * (x + right) - a1 * (y + down)),
                *(b0, b1, y - b0 * (x + right) - b1 * (y + down)),
                *(zero, zero),
            ],
            axis=1,
        )


def augment(images, indices, *, view: View, seed, epoch, size: int) -> tf.Tensor:
    """The view that each image has in this epoch, before any mixup: a pure function of (seed, epoch, index).

    Args:
        images: float32 [b, h, w, c] in [0, 1], as `to_float` makes them.
        indices: int [b], the position of each image in its split, in [0, size).
        view: the range of the views.
        seed, epoch: integers (or scalar tensors).
        size: number of images in the split.

    Returns:
        float32 [b, h, w, c] in [0, 1]: bilinear, black where the original does not reach.
    """
    images, indices = tf.convert_to_tensor(images), tf.convert_to_tensor(indices)
    if images.dtype != tf.float32 or images.shape.rank != 4:
        raise ValueError(f"images must be float32 [b, h, w, c], got {images.dtype.name} {images.shape}: use to_float")
    if not indices.dtype.is_integer or not indices.shape.is_compatible_with(images.shape[:1]):
        raise ValueError(
            f"indices must be integers, one for each of {images.shape[0]} images, "
            f"got {indices.dtype.name} {indices.shape}"
        )
    height, width = images.shape[1:3]
    table = transforms(view, seed=seed, epoch=epoch, size=size, height=height, width=width)
    return _transform(images, table, indices)


def _transform(images: tf.Tensor, table: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Row indices[k] of the table applied to image k, the whole batch in one operation."""
    with tf.device(CPU):
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.gather(table, indices),
            output_shape=tf.shape(images)[1:3],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )


def _seed_of(seed, epoch, stream: int) -> tf.Tensor:
    """Seed of a stateless operation. What is drawn for an epoch has a stream each: they must not go together."""
    return tf.stack([tf.cast(seed, tf.int64), STREAMS * tf.cast(epoch, tf.int64) + stream])


def _partners(seed, epoch, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """For mixup: the index each image is blended with, int64 [size], and its own share, float32 [size] in [.5, 1].

    A share drawn from [0, 1] with either of the two called the first is one from [.5, 1] with the greater first.
    """
    everyone = tf.range(size, dtype=tf.int64)
    partner = tf.random.experimental.stateless_shuffle(everyone, _seed_of(seed, epoch, stream=PARTNERS))
    return partner, tf.random.stateless_uniform([size], _seed_of(seed, epoch, stream=SHARES), 0.5, 1.0)


def batches(
    split: Split,
    *,
    batch_size: int,
    seed: int = 0,
    epochs: int = 1,
    first_epoch: int = 0,
    shuffle: bool = True,
    view: View | None = None,
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
        view: augmentation, a new view of each image for each epoch; None for the images as they are.
        signals: what a teacher said: name → array [views, n, ...]. Signal [v, i] belongs to image i in epoch
            first_epoch + v; one view serves every epoch, which is right only where the images are not augmented.

    Yields:
        {"image": float32 [b, h, w, c] in [0, 1], "label": int32 [b], "index": int64 [b], the position in the split,
        "epoch": int64 []}; with subclasses in the split "subclass": int32 [b], and with signals
        "teacher": {name: [b, ...]}.
    """
    n = len(split)
    per_epoch = steps(n, batch_size)
    if epochs < 1 or first_epoch < 0:
        raise ValueError(f"epochs is {epochs}, first_epoch {first_epoch}: they must be at least 1 and 0")
    for name, array in (signals or {}).items():
        _check_signal(name, array, n, epochs, view)

    with tf.device(CPU):  # captured by the functions below as tensors: never copied into a graph
        images, labels = tf.constant(split.images), tf.constant(split.labels)
        subclasses = None if split.subclasses is None else tf.constant(split.subclasses)
    heights, widths = split.images.shape[1:3]

    def seen(index, table, partners):
        image = to_float(tf.gather(images, index))
        if view is None:
            return image
        image = _transform(image, table, index)
        if not view.mixup:
            return image
        partner, share = (tf.gather(part, index) for part in partners)
        share = share[:, None, None, None]
        return share * image + (1 - share) * _transform(to_float(tf.gather(images, partner)), table, partner)

    def one_epoch(epoch):
        order = tf.range(n, dtype=tf.int64)
        if shuffle:
            order = tf.random.experimental.stateless_shuffle(order, _seed_of(seed, epoch, stream=ORDER))
        table = partners = None
        if view is not None:
            table = transforms(view, seed=seed, epoch=epoch, size=n, height=heights, width=widths)
            partners = _partners(seed, epoch, n) if view.mixup else None
        said = {name: _of_epoch(array, epoch - first_epoch) for name, array in (signals or {}).items()}

        def one_batch(step):
            index = order[step * batch_size : (step + 1) * batch_size]
            image = seen(index, table, partners)
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


def _of_epoch(array: np.ndarray, number: tf.Tensor) -> tf.Tensor:
    """The signal of one epoch, [n, ...]. Only this part of an array that lies on disk is read into memory."""

    def read(number):
        return np.ascontiguousarray(array[number if len(array) > 1 else 0])

    part = tf.numpy_function(read, [number], array.dtype)
    part.set_shape(array.shape[1:])
    return part


def _check_signal(name: str, array: np.ndarray, n: int, epochs: int, view: View | None) -> None:
    if array.ndim < 2 or array.shape[1] != n or array.shape[0] not in (1, epochs):
        raise ValueError(
            f"signal {name!r} has shape {array.shape}; expected [views, n, ...] with n = {n:,} images "
            f"and 1 view or one for each of {epochs} epochs"
        )
    if view is not None and array.shape[0] != epochs:
        raise ValueError(
            f"signal {name!r} has 1 view, but each of {epochs} epochs shows other views of the images: "
            f"compute one view of the signal for each epoch"
        )
