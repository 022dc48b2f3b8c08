"""The embedded stand-in for MNIST: scikit-learn's 1,797 handwritten digits, enlarged to 28x28.

It lets everything run without a network. It is smaller and easier than MNIST, so its numbers are its own.
"""

import numpy as np
from sklearn.datasets import load_digits

from utils.data.dataset import Dataset, Split, stratified

SEED = 0


def enlarge(images: np.ndarray) -> np.ndarray:
    """Images [n, 8, 8] of integers 0 to 16 → uint8 [n, 28, 28]: bilinear to 20x20, in MNIST's margin of 4 pixels.

    In integers throughout, so that every machine gets the same bytes. Output pixel i, whose centre lies at
    (i + 1/2) · 8/20 - 1/2 of the input, mixes two neighbours with weights that are whole tenths.
    """
    tenths = np.clip(4 * np.arange(20) - 3, 0, 70)  # ten times those centres, the edges repeated
    left = np.minimum(tenths // 10, 6)
    weights = np.zeros((20, 8), np.int64)
    weights[np.arange(20), left] = 10 * (left + 1) - tenths
    weights[np.arange(20), left + 1] = tenths - 10 * left
    mixed = weights @ images.astype(np.int64) @ weights.T  # [n, 20, 20], 0 to 16 · 10 · 10
    pixels = (mixed * 255 + 800) // 1600  # 0 to 255, rounded to nearest
    return np.pad(pixels.astype(np.uint8), ((0, 0), (4, 4), (4, 4)))


def load_digits_standin() -> Dataset:
    """1,221 + 216 + 360 images, uint8 [n, 28, 28, 1], stratified by digit with a fixed seed.

    The writers are not recorded, so one hand may appear in more than one split; no image does.
    """
    digits = load_digits()
    whole = Split(
        enlarge(digits.images)[..., np.newaxis], digits.target.astype(np.int32), np.arange(len(digits.target))
    )
    test, rest = stratified(whole.labels, 360, SEED)
    validation, train = stratified(whole.labels[rest], round(0.15 * len(rest)), SEED)
    return Dataset(
        name="digits stand-in",
        source="embedded digits stand-in, 1,437 + 360",
        class_names=tuple("0123456789"),
        train=whole.take(rest[train]),
        validation=whole.take(rest[validation]),
        test=whole.take(test),
        standin=True,
    )
