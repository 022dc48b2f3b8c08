"""Views: random changes of an image, each a pure function of (seed, epoch, index).

So view v of image i is the same picture for the teacher and for every student, in this run and the next. A view draws
an epoch's table, one row of numbers for each image, and shows a batch of images under their rows.
"""

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

CPU = "/CPU:0"  # tf.data runs there; what is drawn elsewhere must be drawn there too, to be equal bit for bit
ORDER, VIEWS, PARTNERS, SHARES = range(4)  # streams of random numbers
STREAMS = 4


def seed_of(seed, epoch, stream: int) -> tf.Tensor:
    """Seed of a stateless operation. What is drawn for an epoch has a stream each: they must not go together."""
    return tf.stack([tf.cast(seed, tf.int64), STREAMS * tf.cast(epoch, tf.int64) + stream])


def _moved(images: tf.Tensor, transforms: tf.Tensor, interpolation: str) -> tf.Tensor:
    """Each image under its projective transform [b, 8], the whole batch in one operation; black outside."""
    with tf.device(CPU):
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=transforms,
            output_shape=tf.shape(images)[1:3],
            fill_value=0.0,
            interpolation=interpolation,
            fill_mode="CONSTANT",
        )


def _about(centre_x, centre_y, a0, a1, b0, b1, right=0.0, down=0.0) -> list:
    """Eight numbers that send the output pixel q to the input point [[a0, a1], [b0, b1]] (q - c - shift) + c."""
    x, y, zero = centre_x + right, centre_y + down, tf.zeros_like(a0)
    return [a0, a1, centre_x - a0 * x - a1 * y, b0, b1, centre_y - b0 * x - b1 * y, zero, zero]


@dataclass(frozen=True)
class View:
    """The range of a random geometric change of an image; never a flip, since digits are not symmetric.

    Attributes:
        shift: pixels, at least 0: right and down by a uniform draw from [-shift, shift] each.
        rotation: degrees, 0 to 180: about the centre, counter-clockwise by a uniform draw from [-rotation, rotation].
        zoom: in [0, 1): enlarged by a factor drawn uniformly from [1 - zoom, 1 + zoom].
        shear: degrees, 0 to 45: rows slide along each other by the tangent of a uniform draw from [-shear, shear].
        mixup: whether `pipeline.batches` then blends each image with that of another index, half of itself or more.
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

    def draw(self, *, seed, epoch, size: int, height: int, width: int) -> tf.Tensor:
        """The epoch's table, float32 [size, 8]: row i is the projective transform of image i.

        It is the shear after the rotation by -angle, divided by the factor, about the centre.
        """
        with tf.device(CPU):
            draws = tf.random.stateless_uniform([size, 5], seed_of(seed, epoch, stream=VIEWS), -1.0, 1.0)
            ranges = [self.shift, self.shift, math.radians(self.rotation), self.zoom, math.radians(self.shear)]
            right, down, angle, factor, slant = tf.unstack(draws * ranges + [0.0, 0.0, 0.0, 1.0, 0.0], axis=1)
            cos, sin, slope = tf.cos(angle) / factor, tf.sin(angle) / factor, tf.tan(slant)
            matrix = (cos + slope * sin, slope * cos - sin, sin, cos)
            return tf.stack(_about((width - 1) / 2, (height - 1) / 2, *matrix, right, down), axis=1)

    def show(self, images: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Images float32 [b, h, w, c] in [0, 1] under their rows [b, 8]: bilinear."""
        return _moved(images, rows, "BILINEAR")


@dataclass(frozen=True)
class StainView:
    """The range of a random change of a stained section, which has no up and no left, and whose colours vary with the
    laboratory: any of the eight flips and right-angle turns, and mild changes of stain and light.

    Attributes:
        stain: in [0, 1): what each colour channel absorbs is scaled by a factor of its own from [1 - stain, 1 + stain].
        light: in [0, 1): all is then scaled by one factor from [1 - light, 1].
    """

    stain: float = 0.1
    light: float = 0.1
    mixup: bool = False

    def __post_init__(self):
        for name, value in (("stain", self.stain), ("light", self.light)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; it must lie in [0, 1)")

    def draw(self, *, seed, epoch, size: int, height: int, width: int) -> tf.Tensor:
        """The epoch's table, float32 [size, 12]: a projective transform, three stain factors and one of light."""
        if height != width:
            raise ValueError(f"images of {height} x {width} pixels cannot be turned by a right angle: cut them square")
        with tf.device(CPU):
            draws = tf.random.stateless_uniform([size, 6], seed_of(seed, epoch, stream=VIEWS))
            turns, flip = tf.floor(4 * draws[:, 0]), tf.where(draws[:, 1] < 0.5, -1.0, 1.0)
            # Cosine and sine of whole quarter turns, exactly.
            cos, sin = (
                tf.gather([1.0, 0.0, -1.0, 0.0], tf.cast(turns, tf.int32)),
                tf.gather([0.0, 1.0, 0.0, -1.0], tf.cast(turns, tf.int32)),
            )
            centre = (width - 1) / 2
            stain = 1 + self.stain * (2 * draws[:, 2:5] - 1)
            light = 1 - self.light * draws[:, 5:]
            turned = tf.stack(_about(centre, centre, flip * cos, -flip * sin, sin, cos), axis=1)
            return tf.concat([turned, stain, light], axis=1)

    def show(self, images: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Images float32 [b, n, n, 3] in [0, 1] under their rows [b, 12]; white stays white but for the light."""
        turned = _moved(images, rows[:, :8], "NEAREST")
        stain, light = rows[:, None, None, 8:11], rows[:, None, None, 11:]
        return tf.clip_by_value(1 - stain * (1 - turned), 0, 1) * light


def partners(seed, epoch, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """For mixup: the index each image is blended with, int64 [size], and its own share, float32 [size] in [.5, 1].

    A share drawn from [0, 1] with either of the two called the first is one from [.5, 1] with the greater first.
    """
    everyone = tf.range(size, dtype=tf.int64)
    partner = tf.random.experimental.stateless_shuffle(everyone, seed_of(seed, epoch, stream=PARTNERS))
    return partner, tf.random.stateless_uniform([size], seed_of(seed, epoch, stream=SHARES), 0.5, 1.0)


def to_float(images) -> tf.Tensor:
    """Images uint8 → float32 in [0, 1]."""
    # A product: a quotient is rewritten to one inside a graph, and would differ from itself run eagerly.
    return tf.cast(images, tf.float32) * np.float32(1 / 255)


def augment(images, indices, *, view, seed, epoch, size: int) -> tf.Tensor:
    """The view that each image has in this epoch, before any mixup: a pure function of (seed, epoch, index).

    Args:
        images: float32 [b, h, w, c] in [0, 1], as `to_float` makes them.
        indices: int [b], the position of each image in its split, in [0, size).
        view: a View or StainView.
        seed, epoch: integers (or scalar tensors).
        size: number of images in the split.

    Returns:
        float32 [b, h, w, c] in [0, 1].
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
    table = view.draw(seed=seed, epoch=epoch, size=size, height=height, width=width)
    return view.show(images, tf.gather(table, indices))
