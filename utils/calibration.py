"""How far a model's probabilities can be believed, and the one number that mends most of it.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017. The expected calibration error itself is
`utils.metrics.calibration_error`.
"""

import numpy as np
from scipy import optimize, special, stats

LOWEST, HIGHEST = 0.01, 100.0  # where the temperature is looked for


def temperature_scaling(labels, logits) -> float:
    """The temperature T > 0 for which softmax(logits / T) makes the labels most likely.

    The classes predicted stay the same; only the confidence changes: T > 1 lowers it.

    Args:
        labels: int [n], of images that the model was not trained on, and not of the test split.
        logits: float [n, C].
    """
    labels, logits = _checked(labels, logits)
    if np.all(logits.argmax(axis=-1) == labels):
        raise ValueError(
            f"All of the {len(labels):,} images are classified right, so the colder the likelier, without end. Take "
            "images that the model was not trained on, and enough of them that it errs on some."
        )

    def loss(log_temperature):
        log_p = special.log_softmax(logits / np.exp(log_temperature), axis=-1)
        return -log_p[np.arange(len(labels)), labels].mean()

    found = optimize.minimize_scalar(loss, bounds=np.log((LOWEST, HIGHEST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def reliability(labels, logits, bins: int = 15, confidence_level: float = 0.95) -> dict[str, list]:
    """Confidence and accuracy in bins of equal width of the confidence; empty bins are left out.

    Args:
        labels: int [n].
        logits: float [n, C].
        bins: at least 1, as `calibration_error` cuts them.
        confidence_level: of the intervals of the accuracy (Wilson's).

    Returns:
        Lists with an entry for each bin: "from" and "to" (its limits), "count", "confidence" and "accuracy" (means),
        "low" and "high" (the interval of the accuracy). The mean of |accuracy - confidence|, weighted with
        count, is the expected calibration error.
    """
    labels, logits = _checked(labels, logits)
    probabilities = special.softmax(logits, axis=-1)
    return in_bins(probabilities.max(axis=-1), probabilities.argmax(axis=-1) == labels, bins, confidence_level)


def in_bins(confidence, hits, bins: int, confidence_level: float = 0.95) -> dict[str, list]:
    """The table of `reliability` for any probability, in [0, 1] [n], of something that happened or not, bool [n]."""
    confidence, hits = np.asarray(confidence, np.float64), np.asarray(hits, bool)
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be at least 1.")
    if confidence.shape != hits.shape or confidence.ndim != 1 or not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(f"One probability in [0, 1] for each of {hits.shape} is needed; received {confidence.shape}.")
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    table = {name: [] for name in ("from", "to", "count", "confidence", "accuracy", "low", "high")}
    for b in np.unique(bin_of):
        inside = bin_of == b
        count, right = int(inside.sum()), int(hits[inside].sum())
        interval = stats.binomtest(right, count).proportion_ci(confidence_level, method="wilson")
        row = (b / bins, (b + 1) / bins, count, confidence[inside].mean(), right / count, interval.low, interval.high)
        for column, value in zip(table.values(), row, strict=True):
            column.append(value if isinstance(value, int) else float(value))
    return table


def _checked(labels, logits) -> tuple[np.ndarray, np.ndarray]:
    labels, logits = np.asarray(labels), np.asarray(logits, np.float64)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels) or not np.isfinite(logits).all():
        raise ValueError(
            f"labels {labels.shape} and logits {logits.shape} were given; finite logits [n, C] are needed, labels [n]."
        )
    return labels, logits
