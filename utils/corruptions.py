"""What a picture may suffer on its way to a model, in five strengths: how much of its accuracy does a model keep?

After Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR
2019, with strengths chosen for digits of 28x28 pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

STRENGTHS = (1, 2, 3, 4, 5)
BLUR = (0.5, 0.75, 1.0, 1.5, 2.0)  # standard deviation of the Gaussian, in pixels
NOISE = (0.1, 0.2, 0.3, 0.4, 0.5)  # standard deviation of the Gaussian, of the range 1
SHIFT = (1, 2, 3, 4, 5)  # pixels, along a side or both
CONTRAST = (0.9, 0.75, 0.6, 0.4, 0.2)  # what is left of the distance from the middle grey
# Right, left, down, up and the four diagonals.
DIRECTIONS = np.array([(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)])


def _blur(images, level, rng):
    return ndimage.gaussian_filter(images, sigma=(0, level, level, 0))


def _noise(images, level, rng):
    return images + level * rng.standard_normal(images.shape, np.float32)


def _shift(images, level, rng):
    """Each image in a direction of its own; black comes in."""
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (level, level), (level, level), (0, 0)))
    down, right = level * DIRECTIONS[rng.integers(len(DIRECTIONS), size=n)].T
    rows = level - down[:, None] + np.arange(height)
    columns = level - right[:, None] + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _contrast(images, level, rng):
    return 0.5 + level * (images - 0.5)


KINDS = {"blur": (_blur, BLUR), "noise": (_noise, NOISE), "shift": (_shift, SHIFT), "contrast": (_contrast, CONTRAST)}


def corrupt(images: np.ndarray, kind: str, strength: int, seed: int = 0) -> np.ndarray:
    """Images [n, H, W, C] corrupted, of the same shape and type.

    Args:
        images: uint8 in [0, 255], or float in [0, 1]; what comes back lies there too.
        kind: "blur", "noise", "shift" or "contrast".
        strength: 1 to 5; 0 leaves the images as they are.
        seed: of the noise and of the directions of the shift; the same seed corrupts the same images equally.
    """
    images = np.asarray(images)
    whole = images.dtype == np.uint8
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it can be one of {tuple(KINDS)}.")
    if strength not in (0, *STRENGTHS):
        raise ValueError(f"strength is {strength!r}; it can be 0 (none) or one of {STRENGTHS}.")
    if images.ndim != 4 or not (whole or np.issubdtype(images.dtype, np.floating)):
        raise ValueError(
            f"images are {images.dtype} {images.shape}; uint8 or float [n, height, width, channels] wanted."
        )
    if not whole and images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images are {images.dtype} from {images.min()} to {images.max()}; floats lie in [0, 1].")
    if strength == 0:
        return images.copy()
    work, levels = KINDS[kind]
    changed = work(images.astype(np.float32) / (255 if whole else 1), levels[strength - 1], np.random.default_rng(seed))
    changed = np.clip(changed, 0, 1)
    return np.round(255 * changed).astype(np.uint8) if whole else changed.astype(images.dtype)


def corrupted_accuracy(
    models: Sequence[Callable[[np.ndarray], np.ndarray]], split, *, kinds=tuple(KINDS), seed: int = 0
) -> list[dict]:
    """Accuracy of each model at each strength: for each of them {kind: [at strength 0, 1, …, 5]}.

    Args:
        models: functions of uint8 images [n, H, W, C] → logits or probabilities [n, C].
        split: the test split; every model that is asked with the same seed sees the same pictures.
    """
    found = [{kind: [] for kind in kinds} for _ in models]
    for kind in kinds:
        for strength in (0, *STRENGTHS):
            images = corrupt(split.images, kind, strength, seed)
            for predict, accuracy in zip(models, found, strict=True):
                accuracy[kind].append(float(np.mean(predict(images).argmax(axis=-1) == split.labels)))
    return found
