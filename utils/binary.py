"""Metrics of two classes, SSA (1, positive) against HP (0), from P(SSA) over a whole split at once.

Never per batch: a mean of AUCs of batches is not the AUC. `labels` are 0 or 1 [n], `scores` P(SSA) in [0, 1]; an image
is called SSA where its score reaches the threshold, which is chosen on validation.
"""

import numpy as np
from scipy import special, stats
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, roc_auc_score, roc_curve

ANNOTATORS, MAJORITY = 7, 4
BINS = 15
MEASURES = (
    "auc", "average_precision", "f1", "weighted_f1", "balanced_accuracy", "sensitivity", "specificity", "accuracy",
    "brier", "calibration_error",
)  # fmt: skip
WITHOUT_THRESHOLD = ("auc", "average_precision", "brier", "calibration_error")


def positive_scores(logits) -> np.ndarray:
    """P(SSA), float64 [..., n], from logits [..., n, 2]. In float32 many sure answers would round to a tie at 1."""
    return special.softmax(np.asarray(logits, np.float64), axis=-1)[..., 1]


def _checked(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool [n] and scores as float64 [..., n]."""
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.ndim != 1 or not len(labels) or not np.isin(labels, (0, 1)).all():
        found = f"shape {labels.shape} with values {np.unique(labels)[:5]}"
        raise ValueError(f"labels must be 0 (HP) or 1 (SSA), one for each of at least one image; received {found}.")
    if scores.shape[-1:] != labels.shape:
        raise ValueError(f"scores must end in one number for each of {len(labels)} images; received {scores.shape}.")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(
            f"scores must be P(SSA) in [0, 1]; received {scores.min():.4g} to {scores.max():.4g}. "
            "Turn logits into them with positive_scores."
        )
    return labels.astype(bool), scores


def _both_classes(labels):
    if labels.all() or not labels.any():
        raise ValueError(f"This needs images of both classes; received {labels.sum()} SSA among {len(labels)}.")


def choose_threshold(labels, scores) -> float:
    """The threshold with the highest balanced accuracy (Youden's J), for the scores of the validation split.

    Not F1, which depends on the share of SSA: that is 29% in MHIST's train part and 37% in its test part. Candidates
    lie halfway between neighbouring scores; of equals the lowest is taken, since a missed SSA is the worse mistake.
    Where all scores are equal no threshold tells anything apart, and 0.5 lets the model answer as it does.
    """
    labels, scores = _checked(labels, scores)
    _both_classes(labels)
    values = np.unique(scores)
    if len(values) == 1:
        return 0.5
    candidates = (values[:-1] + values[1:]) / 2
    called = scores >= candidates[:, None]  # [candidates, n]
    hits, rejections = called[:, labels].sum(axis=1), (~called[:, ~labels]).sum(axis=1)
    # Sensitivity + specificity times both class sizes: whole numbers, so that equals are equal; argmax takes the first.
    return float(candidates[np.argmax(hits * np.sum(~labels) + rejections * np.sum(labels))])


def calibration_error(labels, scores, bins: int = BINS) -> float:
    """Expected calibration error of P(SSA): the mean gap of P(SSA) and the share of SSA over bins of equal width.

    Not that of `metrics.calibration_error`, which bins the confidence in whichever class is answered at 0.5. It grows
    with noise: a perfectly calibrated model has about 0.03 on a thousand images.
    """
    labels, scores = _checked(labels, scores)
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(bin_of, weights=labels - scores)).sum() / len(labels))


def binary_summary(labels, scores, threshold: float) -> dict:
    """All metrics of one model on one split, as numbers that JSON can hold; labels and scores [n].

    "confusion" is [[true HP, HP called SSA], [SSA called HP, true SSA]], "f1" that of SSA, "weighted_f1" the mean of
    both classes' by their number of images. With one class only, as a small stratum may have, "auc",
    "average_precision", "balanced_accuracy" and the absent class's rate are NaN; an F1 of nothing is 0.
    """
    labels, scores = _checked(labels, scores)
    called = scores >= threshold
    confusion = confusion_matrix(labels, called, labels=[False, True])
    sizes = confusion.sum(axis=1)
    hits = np.diag(confusion)
    specificity, sensitivity = np.divide(hits, sizes, out=np.full(2, np.nan), where=sizes > 0)
    ranking = sizes.min() > 0
    return {
        "auc": float(roc_auc_score(labels, scores)) if ranking else float("nan"),
        "average_precision": float(average_precision_score(labels, scores)) if ranking else float("nan"),
        "f1": float(f1_score(labels, called, zero_division=0.0)),
        "weighted_f1": float(f1_score(labels, called, average="weighted", zero_division=0.0)),
        "balanced_accuracy": float((sensitivity + specificity) / 2),
        "sensitivity": float(sensitivity),
        "specificity": float(specificity),
        "accuracy": float(hits.sum() / len(labels)),
        "brier": float(np.mean((scores - labels) ** 2)),
        "calibration_error": calibration_error(labels, scores),
        "confusion": confusion.tolist(),
        "positives": int(labels.sum()),
        "images": len(labels),
        "threshold": float(threshold),
    }


def always_negative(labels) -> dict:
    """The row of the trivial answer: HP, with certainty, for every image."""
    return binary_summary(labels, np.zeros(len(labels)), threshold=0.5)


def always_positive(labels) -> dict:
    """The row of the other trivial answer: SSA, with certainty, for every image."""
    return binary_summary(labels, np.ones(len(labels)), threshold=0.5)


def at_trivial_point(summary: dict) -> bool:
    """Whether a run finds no SSA or no HP at all: nothing more than always answering the other."""
    return summary["sensitivity"] == 0 or summary["specificity"] == 0


def sensitivity_at(labels, scores, false_positive_rates) -> np.ndarray:
    """The ROC curve at given false positive rates [k], so that curves can be averaged: scores [n] → [k]."""
    labels, scores = _checked(labels, scores)
    _both_classes(labels)
    return np.interp(false_positive_rates, *roc_curve(labels, scores)[:2])


def agreement_strata(votes) -> dict[str, np.ndarray]:
    """Which images had this many annotators on the majority's side, {"7/7": bool [n], ..., "4/7"}; votes 0 to 7 [n]."""
    votes = np.asarray(votes)
    if not np.isin(votes, range(ANNOTATORS + 1)).all():
        raise ValueError(f"votes must be whole numbers from 0 to {ANNOTATORS}; received {np.unique(votes)}.")
    agreed = np.maximum(votes, ANNOTATORS - votes)
    return {f"{k}/{ANNOTATORS}": agreed == k for k in range(ANNOTATORS, MAJORITY - 1, -1)}


def _resamples(labels, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each SSA image [resamples, p] and each HP image [resamples, q] was drawn, with replacement.

    Drawn within the classes: their balance is the data set's making, not chance, and no resample lacks a class.
    """
    generator = np.random.default_rng(seed)
    sizes = int(labels.sum()), int((~labels).sum())
    return tuple(generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64) for n in sizes)


def _wins(positive, negative) -> np.ndarray:
    """[p, q]: 1 where the SSA image scores above the HP image, 1/2 where they tie. Its mean is the AUC."""
    return (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)


def _measure_resamples(labels, scores, threshold: float, drawn) -> dict[str, np.ndarray]:
    """Each of MEASURES for each resample, [resamples], from the counts in `drawn`; labels bool [n], scores [n]."""
    positive, negative = scores[labels], scores[~labels]
    of_positive, of_negative = drawn
    p, q = len(positive), len(negative)
    tp, tn = of_positive @ (positive >= threshold), of_negative @ (negative < threshold)
    f1, f1_of_negative = 2 * tp / (tp + q - tn + p), 2 * tn / (tn + p - tp + q)
    # How many of each class score no less than each SSA image: its precision, were the threshold there.
    hits, alarms = of_positive @ (positive[:, None] >= positive), of_negative @ (negative[:, None] >= positive)
    precision = hits / np.maximum(hits + alarms, 1)  # 0 / 0 where nothing so high was drawn, nor is it counted then
    return {
        "auc": np.sum((of_positive @ _wins(positive, negative)) * of_negative, axis=1) / (p * q),
        "average_precision": np.sum(of_positive * precision, axis=1) / p,
        "f1": f1,
        "weighted_f1": (p * f1 + q * f1_of_negative) / (p + q),
        "balanced_accuracy": (tp / p + tn / q) / 2,
        "sensitivity": tp / p,
        "specificity": tn / q,
        "accuracy": (tp + tn) / (p + q),
        "brier": (of_positive @ (1 - positive) ** 2 + of_negative @ negative**2) / (p + q),
        "calibration_error": np.abs(of_positive @ _gaps(positive, 1) + of_negative @ _gaps(negative, 0)).sum(axis=1)
        / (p + q),
    }


def _gaps(scores, label: int) -> np.ndarray:
    """[n, BINS]: what each image of one class adds to the gap of its bin, its label minus its score; 0 elsewhere."""
    bin_of = np.minimum((scores * BINS).astype(int), BINS - 1)
    return np.where(bin_of[:, None] == np.arange(BINS), (label - scores)[:, None], 0.0)


def delong(labels, first, second, confidence: float = 0.95) -> dict:
    """Paired test of two AUCs on the same images, scores [n] each: both, the "mean" of first - second, its interval, p.

    DeLong, DeLong and Clarke-Pearson, Biometrics 1988. The variance comes from each image's placement, the share of
    the other class's images that it is ranked rightly against; ties count half. Where the standard error is 0, as for
    equal scores, p is NaN and nothing is claimed. It covers the images, not the seeds: for those see `compare_arms`.
    """
    labels, scores = _checked(labels, np.stack([first, second]))
    _both_classes(labels)
    if min(labels.sum(), (~labels).sum()) < 2:
        raise ValueError(
            f"DeLong's variance needs two images of each class; received {labels.sum()} SSA of {len(labels)}."
        )
    wins = [_wins(of_one[labels], of_one[~labels]) for of_one in scores]
    difference = wins[0] - wins[1]
    variance = sum(difference.mean(axis=a).var(ddof=1) / difference.shape[1 - a] for a in (0, 1))
    aucs = {"first": float(wins[0].mean()), "second": float(wins[1].mean())}
    return aucs | _interval(difference.mean(), variance, np.inf, confidence)


def _interval(mean, variance, freedom, confidence) -> dict:
    """Student-t interval and two-sided test of a mean against 0."""
    error = np.sqrt(variance)
    varies = error > 1e-9  # less is rounding, and without any variance nothing is claimed
    low, high = mean + np.array([-1, 1]) * stats.t.ppf(0.5 + confidence / 2, freedom) * error
    p_value = 2 * stats.t.sf(abs(mean) / error, freedom) if varies else np.nan
    return {
        "mean": float(mean),
        "standard_error": float(error),
        "low": float(low),
        "high": float(high),
        "p_value": float(p_value),
        "outside_noise": bool(varies and (low > 0 or high < 0)),
    }


def _over_seeds_and_images(values, resampled, confidence) -> dict:
    """Interval of the mean of values [seeds], whose covariance over images shows in resampled [resamples, seeds].

    Variance s² / S + max(c, 0): the spread s² of S seeds on these images, and the covariance c of two seeds, which is
    what changes with the images for all seeds alike. Seeds are the readers of Obuchowski and Rockette (1995), with
    the degrees of freedom of Hillis (2007). Even seeds that were worth the same would differ by what the images do to
    each of them alone, v - c for a seed's variance v over images: three that agree more closely do so by luck, so s² is
    taken to be no less. Of three seeds, simulated intervals of 95% held the truth in 93 to 96% of cases for an arm
    and in 94 to 98% for a difference. One seed: the images alone.
    """
    seeds = len(values)
    covariance = np.cov(resampled, rowvar=False).reshape(seeds, seeds)
    if seeds == 1:
        return _interval(values.mean(), covariance[0, 0], np.inf, confidence)
    shared = covariance[~np.eye(seeds, dtype=bool)].mean()
    of_seeds = values.var(ddof=1) / seeds
    variance = max(of_seeds, (np.diag(covariance).mean() - shared) / seeds) + max(shared, 0)
    freedom = (seeds - 1) * (variance / of_seeds) ** 2 if of_seeds > 0 else np.inf
    return _interval(values.mean(), variance, freedom, confidence)


def _arm(labels, scores, thresholds, name, drawn) -> tuple[np.ndarray, np.ndarray]:
    """One metric of an arm's runs, on the images [seeds] and on resamples of them [resamples, seeds]."""
    once = tuple(np.ones((1, counts.shape[1])) for counts in drawn)
    on_images, on_resamples = (
        [_measure_resamples(labels, run, t, d)[name] for run, t in zip(scores, thresholds, strict=True)]
        for d in (once, drawn)
    )
    return np.concatenate(on_images), np.stack(on_resamples, axis=1)


def _checked_arm(labels, scores, thresholds, name) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, scores = _checked(labels, scores)
    _both_classes(labels)
    if scores.ndim != 2:
        raise ValueError(f"The scores of an arm must be [seeds, images]; received shape {scores.shape}.")
    if name not in MEASURES:
        raise ValueError(f"The metric is {name!r}; it can be one of {MEASURES}.")
    if thresholds is None:
        if name not in WITHOUT_THRESHOLD:
            raise ValueError(f"{name} needs the threshold of each run, chosen on validation: pass them.")
        thresholds = np.full(len(scores), 0.5)
    if np.shape(thresholds) != (len(scores),):
        raise ValueError(f"thresholds must be one for each of {len(scores)} seeds; received {np.shape(thresholds)}.")
    return labels, scores, np.asarray(thresholds, np.float64)


def arm_interval(
    labels, scores, thresholds=None, name: str = "auc", *, resamples: int = 2000, seed: int = 0, confidence=0.95
) -> dict:
    """Mean of a metric over an arm's seeds, scores [seeds, n], with an interval that covers both images and seeds.

    "seeds" holds the metric of each; the interval is cut at 0 and 1. Of the calibration error it is the interval of
    what is measured on so many images, not of a perfectly measured one, which would be smaller.
    """
    labels, scores, thresholds = _checked_arm(labels, scores, thresholds, name)
    values, resampled = _arm(labels, scores, thresholds, name, _resamples(labels, resamples, seed))
    found = _over_seeds_and_images(values, resampled, confidence)
    return {
        "mean": found["mean"],
        "low": max(found["low"], 0.0),
        "high": min(found["high"], 1.0),
        "seeds": values.tolist(),
    }


def compare_images(
    labels, scores, first, second, thresholds=None, name: str = "auc", *, resamples: int = 2000, seed: int = 0,
    confidence: float = 0.95,
) -> dict:  # fmt: skip
    """Mean difference of a metric of one arm, scores [seeds, n], between two sets of images without a common one.

    first and second are bool [n]; the sets are resampled apart. Otherwise as `compare_arms`.
    """
    first, second = (np.asarray(images, bool) for images in (first, second))
    if np.any(first & second):
        raise ValueError(f"The sets must have no image in common; {np.sum(first & second)} are in both.")
    labels, scores = _checked(labels, scores)
    found = []
    for k, images in enumerate((first, second)):
        arm = _checked_arm(labels[images].astype(int), scores[..., images], thresholds, name)
        found.append(_arm(*arm, name, _resamples(arm[0], resamples, seed + k)))
    (values, resampled), (others, others_resampled) = found
    return {
        **_over_seeds_and_images(values - others, resampled - others_resampled, confidence),
        "differences": (values - others).tolist(),
    }


def compare_arms(
    labels, first, second, thresholds=(None, None), name: str = "auc", *, resamples: int = 2000, seed: int = 0,
    confidence: float = 0.95,
) -> dict:  # fmt: skip
    """Mean difference of a metric, first - second, with an interval and p-value that cover images and seeds at once.

    First and second are scores [seeds, n] of the same images, paired by seed, as the runs of one seed share initial
    weights and batches; `thresholds` holds those of both, [seeds] each. Images are resampled for both arms together.
    Three seeds are too few to resample; their spread enters as it is. "differences" holds that of each seed.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(f"Arms must be paired by seed; received {np.shape(first)} and {np.shape(second)} scores.")
    first, second = (_checked_arm(labels, s, t, name) for s, t in zip((first, second), thresholds, strict=True))
    drawn = _resamples(first[0], resamples, seed)
    (values, resampled), (others, others_resampled) = _arm(*first, name, drawn), _arm(*second, name, drawn)
    found = _over_seeds_and_images(values - others, resampled - others_resampled, confidence)
    return {**found, "differences": (values - others).tolist()}
