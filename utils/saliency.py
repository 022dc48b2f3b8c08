"""Saliency by gradient, and what a saliency map of any kind is worth: deletion, insertion, overlap with a mask.

Images are uint8, or floats in [0, 1]; models take float32 [b, H, W, C] in [0, 1] and return logits [b, classes].
A map [H, W] says how much each place speaks for a class; a background is what stands where a pixel is hidden: a
number, a colour [C] or a picture [H, W, C], in [0, 1], or one for each image, [n, 1, 1, C] or [n, H, W, C].
"""

from functools import lru_cache

import numpy as np
import tensorflow as tf
from scipy import special
from skimage.color import rgb2gray
from skimage.filters import sobel


def as_float(images) -> np.ndarray:
    """Images as float32 in [0, 1]: uint8 is divided by 255, floats are taken as they are if they lie in [0, 1]."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    if not np.issubdtype(images.dtype, np.floating) or images.min() < 0 or images.max() > 1:
        raise ValueError(
            f"images are {images.dtype} from {images.min()} to {images.max()}; expected uint8, or floats in [0, 1]. "
            "Undo a normalisation first: the models scale their input themselves."
        )
    return images.astype(np.float32)


def probabilities(model, images, batch_size: int = 250) -> np.ndarray:
    """Softmax [n, classes] of the model's logits for images [n, H, W, C], in inference mode."""
    ask = _traced(model, images.shape[1:])
    # Batch by batch: a whole test set of MHIST as float would take half a GiB, twice.
    parts = [ask(as_float(images[i : i + batch_size])).numpy() for i in range(0, len(images), batch_size)]
    return special.softmax(np.concatenate(parts), axis=-1)


@lru_cache(maxsize=8)
def _traced(model, shape: tuple):
    """The model as a graph for batches of any size. Kept, because each image asks again: tracing takes longer than a
    batch, `predict` adds 0.3 s to each call, and `predict_on_batch` traces each new size, with a warning."""
    signature = [tf.TensorSpec((None, *shape), tf.float32)]
    return tf.function(lambda images: model(images, training=False), input_signature=signature)


def integrated_gradients(model, images, labels, *, baseline=0.0, steps: int = 64, batch_size: int = 50) -> np.ndarray:
    """Integrated gradients of each image's label, summed over channels, [n, H, W].

        map = (image - baseline) · mean over a in (0, 1) of the gradient of s at baseline + a · (image - baseline)

    s is the label's logit less the mean of all logits: softmax sees only differences of logits, so what a network adds
    to all of them is no evidence for a class. A map sums to s(image) - s(baseline) up to the error of the `steps`
    midpoints. Where image and baseline are alike, a map is 0: with a black baseline, missing ink is never credited.

    It stands in for Grad-CAM, which needs a convolution: the fully connected student has none.
    Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, arXiv:1703.01365.

    Args:
        labels: int [n], the class explained for each image.
        baseline: the background that stands for "nothing to see".
    """
    images, labels = as_float(images), np.asarray(labels)
    _check_one_each("labels", labels, images)
    starts = np.broadcast_to(np.asarray(baseline, np.float32), images.shape)

    @tf.function(reduce_retracing=True)
    def gradient(points, wanted):
        with tf.GradientTape() as tape:
            tape.watch(points)
            logits = model(points, training=False)
            score = tf.gather(logits, wanted, batch_dims=1) - tf.reduce_mean(logits, axis=-1)
        return tape.gradient(score, points)

    maps = []
    for i in range(0, len(images), batch_size):
        start, wanted = starts[i : i + batch_size], labels[i : i + batch_size]
        path = images[i : i + batch_size] - start
        midpoints = (np.arange(steps, dtype=np.float32) + 0.5) / steps
        total = sum(gradient(tf.constant(start + a * path), tf.constant(wanted)).numpy() for a in midpoints)
        maps.append((path * total / steps).sum(axis=-1))
    return np.concatenate(maps)


def edges(images) -> np.ndarray:
    """Strength of the edges, [n, H, W], by Sobel's filter: a map that looks like an explanation and knows no model.

    The baseline of Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, arXiv:1810.03292.
    """
    images = as_float(images)
    return np.stack([sobel(rgb2gray(i) if i.shape[-1] == 3 else i[..., 0]) for i in images])


def deletion_insertion(model, images, maps, labels, *, background, steps: int = 20, seed: int = 0) -> dict:
    """How the label's probability falls while the pixels that a map ranks highest are hidden, and how it rises while
    they are put onto the background: {"deletion": [n, steps + 1], "insertion": [n, steps + 1]}.

    Point k of a curve is the probability with a share k / steps of the pixels hidden, or shown. A good map has a
    small area under the deletion curve and a large one under the insertion curve (`area`). Only pixels that differ
    from the background count, since hiding the others changes nothing; equal ranks are broken at random by `seed`.
    Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018, arXiv:1806.07421.

    Args:
        maps: [n, H, W], one for each image, made for that image's label.
    """
    images, maps, labels = as_float(images), np.asarray(maps), np.asarray(labels)
    _check_one_each("labels", labels, images)
    if maps.shape != images.shape[:3]:
        raise ValueError(f"maps are {maps.shape}; expected {images.shape[:3]}, one map [H, W] for each image.")
    rng = np.random.default_rng(seed)
    backgrounds = np.broadcast_to(np.asarray(background, np.float32), images.shape)
    shares = np.arange(steps + 1) / steps
    curves = []
    for image, hidden, saliency, label in zip(images, backgrounds, maps, labels, strict=True):
        changeable = np.flatnonzero(np.any(image != hidden, axis=-1))
        shuffled = rng.permutation(changeable)
        ranked = shuffled[np.argsort(-saliency.ravel()[shuffled], kind="stable")]
        chosen = np.zeros((steps + 1, saliency.size), bool)
        for row, share in zip(chosen, shares, strict=True):
            row[ranked[: round(share * len(ranked))]] = True
        chosen = chosen.reshape(steps + 1, *saliency.shape, 1)
        both = np.concatenate([np.where(chosen, hidden, image), np.where(chosen, image, hidden)])
        curves.append(probabilities(model, both)[:, label])
    curves = np.array(curves).reshape(-1, 2, steps + 1)
    return {"deletion": curves[:, 0], "insertion": curves[:, 1]}


def area(curves) -> np.ndarray:
    """Area in [0, 1] under each curve [..., points] over shares from 0 to 1, by trapezoids: [...]."""
    curves = np.asarray(curves)
    return np.trapezoid(curves, dx=1 / (curves.shape[-1] - 1), axis=-1)


def mask_overlap(maps, masks) -> dict:
    """How far maps [n, H, W] point into known masks, bool [n, H, W]; arrays [n] of numbers in [0, 1].

    "inside" is the share of a map's positive weight within the mask (0 if it has none), to be held against "covered",
    the share of the image that the mask covers and that a map which knows nothing gets. "hit" is the pointing game:
    whether the highest place (or the share of the equally high ones) lies within. "iou" is intersection over union of
    the mask and as many of the highest pixels as the mask has, equal ranks in a fixed random order; "iou_by_chance" is
    what a random choice of as many pixels gets.
    """
    maps, masks = np.asarray(maps, np.float64), np.asarray(masks)
    if masks.dtype != bool or masks.shape != maps.shape:
        raise ValueError(f"masks are {masks.dtype} {masks.shape}; expected bool {maps.shape}, one for each map.")
    rng = np.random.default_rng(0)
    rows = []
    for saliency, mask in zip(maps.reshape(len(maps), -1), masks.reshape(len(masks), -1), strict=True):
        positive = np.maximum(saliency, 0)
        shuffled = rng.permutation(saliency.size)
        top = shuffled[np.argsort(-saliency[shuffled], kind="stable")][: mask.sum()]
        common, covered = mask[top].sum(), mask.mean()
        rows.append({
            "inside": positive[mask].sum() / positive.sum() if positive.any() else 0.0,
            "covered": covered,
            "hit": mask[saliency == saliency.max()].mean(),
            "iou": common / max(2 * mask.sum() - common, 1),
            "iou_by_chance": covered / (2 - covered),
        })  # fmt: skip
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _check_one_each(name: str, values: np.ndarray, images: np.ndarray) -> None:
    if images.ndim != 4 or values.shape != images.shape[:1] or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"{name} are {values.dtype} {values.shape} for images {images.shape}; expected images [n, H, W, C] and one "
            "integer for each."
        )
