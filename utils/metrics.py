"""Metrics of one model, agreement of two, and intervals over seeds. Everything takes NumPy arrays."""

import numpy as np
from scipy import optimize, special, stats
from sklearn.metrics import confusion_matrix, log_loss, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix


def calibration_error(labels, logits, bins: int = 15) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy over bins of equal width.

    labels int [n], logits float [n, C]. Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    probabilities = special.softmax(np.asarray(logits, np.float64), axis=-1)
    confidence = probabilities.max(axis=-1)
    hits = probabilities.argmax(axis=-1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(hits[bin_of == b].mean() - confidence[bin_of == b].mean()) * (bin_of == b).mean() for b in set(bin_of)]
    return float(sum(gaps))


def classification_summary(labels, logits) -> dict:
    """Accuracy, errors, recall of each class, log loss and calibration error of one model on one split."""
    labels = np.asarray(labels)
    predicted = np.argmax(logits, axis=-1)
    classes = np.arange(np.shape(logits)[-1])
    table = confusion_matrix(labels, predicted, labels=classes)
    probabilities = special.softmax(np.asarray(logits, np.float64), axis=-1)
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "errors": int(np.sum(predicted != labels)),
        "images": len(labels),
        "recall": (np.diag(table) / np.maximum(table.sum(axis=1), 1)).tolist(),
        "log_loss": float(log_loss(labels, probabilities, labels=classes)),
        "calibration_error": calibration_error(labels, logits),
    }


def teacher_agreement(teacher_logits, student_logits) -> dict:
    """How alike two models answer: the share of equal predictions, and KL(teacher ‖ student) at T = 1 in nats."""
    log_p = special.log_softmax(np.asarray(teacher_logits, np.float64), axis=-1)
    log_q = special.log_softmax(np.asarray(student_logits, np.float64), axis=-1)
    return {
        "agreement": float(np.mean(log_p.argmax(-1) == log_q.argmax(-1))),
        "kl_to_teacher": float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1))),
    }


def softened_entropy(logits, temperature: float) -> np.ndarray:
    """Entropy in bits of softmax(logits / T) for each row, [n]: at most log2 C."""
    log_p = special.log_softmax(np.asarray(logits, np.float64) / temperature, axis=-1)
    return -np.sum(np.exp(log_p) * log_p, axis=-1) / np.log(2)


def subclass_alignment(subclasses, found) -> dict:
    """How well subclasses that a network invented match known ones: both int [n], in any numbering.

    "purity" is the share of images whose invented subclass is matched, one to one, with their known one;
    "mutual_information" is normalised: 0 where one says nothing of the other, 1 where they are the same.
    """
    table = contingency_matrix(subclasses, found)
    matched = optimize.linear_sum_assignment(table, maximize=True)
    return {
        "purity": float(table[matched].sum() / len(subclasses)),
        "mutual_information": float(normalized_mutual_info_score(subclasses, found)),
    }


def mean_interval(values, confidence: float = 0.95) -> dict:
    """Mean, standard deviation (n - 1) and Student-t interval of the mean, over runs that differ by their seed."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"An interval needs two runs or more; received values of shape {values.shape}. Add seeds.")
    mean, spread = values.mean(), values.std(ddof=1)
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * spread / np.sqrt(len(values))
    return {"mean": mean, "sd": spread, "low": mean - half, "high": mean + half, "n": len(values)}


def paired_difference(first, second, confidence: float = 0.95) -> dict:
    """Interval of first - second, paired by seed, with the p-value of the paired t-test.

    The seeds give both runs of a pair the same initial weights and the same order of batches, so the
    differences vary less than the runs do.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"Paired runs must come in pairs; received {first.shape} and {second.shape} values.")
    result = mean_interval(first - second, confidence)
    # Differences without any spread, as a small test set's few possible accuracies can give, say nothing of the
    # spread there is: the t-test is undefined, and nothing is claimed.
    if np.allclose(first - second, result["mean"], rtol=0, atol=1e-9):
        return result | {"p_value": float("nan"), "outside_noise": False}
    p_value = float(stats.ttest_rel(first, second).pvalue)
    return result | {"p_value": p_value, "outside_noise": bool(result["low"] > 0 or result["high"] < 0)}
