"""Metrics of P(SSA) against scikit-learn, cases worked by hand, definitions written out, and simulations."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from utils import binary, metrics

NAN = float("nan")


def world(images=80, seeds=1, *, distance=1.4, of_seeds=0.0, digits=None, generator=0):
    """Labels [n] and scores [seeds, n]: images that are easy or hard for all seeds, and what each seed adds itself."""
    generator = np.random.default_rng(generator)
    labels = np.repeat([0, 1], [images - images * 3 // 8, images * 3 // 8])
    distances = distance + of_seeds * generator.normal(size=(seeds, 1))
    noise = 0.8 * generator.normal(size=images) + 0.6 * generator.normal(size=(seeds, images))
    scores = stats.norm.cdf(distances * (labels - 0.5) + noise)
    return labels, scores if digits is None else scores.round(digits)


def true_auc(distance, of_seeds=0.0):
    return stats.norm.cdf(distance / np.sqrt(2 + of_seeds**2))


def test_agreement_splits_the_votes_and_leaves_no_image_out():
    votes = np.array([0, 7, 7, 1, 6, 2, 5, 3, 4, 3])
    strata = binary.agreement_strata(votes)
    assert {name: votes[own].tolist() for name, own in strata.items()} == {
        "7/7": [0, 7, 7], "6/7": [1, 6], "5/7": [2, 5], "4/7": [3, 4, 3]
    }  # fmt: skip
    with pytest.raises(ValueError, match="0 to 7"):
        binary.agreement_strata([8])


@pytest.mark.parametrize("digits", [None, 1])  # 1: with many ties
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_the_summary_is_scikit_learns(digits, threshold):
    labels, (scores,) = world(digits=digits)
    called = scores >= threshold
    found = binary.binary_summary(labels, scores, threshold)
    expected = {
        "auc": sk.roc_auc_score(labels, scores),
        "average_precision": sk.average_precision_score(labels, scores),
        "f1": sk.f1_score(labels, called),
        "weighted_f1": sk.f1_score(labels, called, average="weighted"),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, called),
        "sensitivity": sk.recall_score(labels, called),
        "specificity": sk.recall_score(labels, called, pos_label=0),
        "accuracy": sk.accuracy_score(labels, called),
        "brier": sk.brier_score_loss(labels, scores),
        "calibration_error": binary.calibration_error(labels, scores),  # by hand below: scikit-learn has none
    }
    assert {name: found[name] for name in binary.MEASURES} == pytest.approx(expected)
    assert set(found) - set(expected) == {"confusion", "positives", "images", "threshold"}
    assert json.loads(json.dumps(found)) == found


def test_a_summary_by_hand():
    found = binary.binary_summary([0, 0, 0, 1, 1], [0.1, 0.6, 0.2, 0.6, 0.4], threshold=0.6)
    assert found["confusion"] == [[2, 1], [1, 1]] and found["positives"] == 2 and found["images"] == 5
    assert found["auc"] == pytest.approx((2.5 + 2) / 6)  # .6 beats .1 and .2 and ties .6; .4 beats .1 and .2
    assert found["f1"] == 0.5 and found["sensitivity"] == 0.5 and found["specificity"] == pytest.approx(2 / 3)
    assert found["weighted_f1"] == pytest.approx((3 * 2 / 3 + 2 * 0.5) / 5)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.04 + 0.16 + 0.36) / 5)


@pytest.mark.parametrize("only", [0, 1])
def test_of_one_class_the_ranking_and_the_other_rate_are_undefined(only):
    found = binary.binary_summary([only] * 3, [0.2, 0.6, 0.7], threshold=0.5)
    assert all(np.isnan(found[name]) for name in ("auc", "average_precision", "balanced_accuracy"))
    rates = (NAN, 1 / 3) if only == 0 else (2 / 3, NAN)
    assert (found["sensitivity"], found["specificity"]) == pytest.approx(rates, nan_ok=True)
    assert found["accuracy"] == pytest.approx(2 / 3 if only else 1 / 3)
    assert found["f1"] == pytest.approx(0.8 if only else 0)


def test_the_trivial_answer_on_the_test_part_of_mhist():
    row = binary.always_negative(np.repeat([0, 1], [617, 360]))
    assert round(row["accuracy"], 4) == 0.6315 and round(row["weighted_f1"], 3) == 0.489
    assert row["f1"] == 0 and row["auc"] == 0.5 and row["balanced_accuracy"] == 0.5
    assert row["confusion"] == [[617, 0], [360, 0]] and row["average_precision"] == pytest.approx(360 / 977)


def test_the_other_trivial_answer_has_a_fair_f1_and_nothing_else():
    row = binary.always_positive(np.repeat([0, 1], [617, 360]))
    assert row["f1"] == pytest.approx(2 * 360 / (2 * 360 + 617)) and row["auc"] == row["balanced_accuracy"] == 0.5
    assert row["confusion"] == [[0, 617], [0, 360]]


def test_only_runs_that_miss_a_whole_class_are_trivial():
    labels, scores = [0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9]
    trivial = {t: binary.at_trivial_point(binary.binary_summary(labels, scores, t)) for t in (0.0, 0.5, 0.95)}
    assert trivial == {0.0: True, 0.5: False, 0.95: True}
    assert not binary.at_trivial_point(binary.binary_summary([0, 0], [0.1, 0.2], 0.5))  # there was no SSA to miss


def test_the_auc_is_of_the_whole_split_whatever_the_order_and_not_the_mean_of_batches():
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    batches = [binary.binary_summary(labels[b], scores[b], 0.5)["auc"] for b in (slice(0, 2), slice(2, 4))]
    assert np.mean(batches) == 1.0  # within each batch SSA stands above HP
    assert binary.binary_summary(labels, scores, 0.5)["auc"] == 0.75  # but .2 stands below .8
    labels, (scores,) = world(digits=2)
    order = np.random.default_rng(1).permutation(len(labels))
    there, mixed = (binary.binary_summary(labels[o], scores[o], 0.5) for o in (np.arange(len(labels)), order))
    assert there.pop("confusion") == mixed.pop("confusion") and there == pytest.approx(mixed, rel=1e-12)


def test_probabilities_of_sure_answers_stay_apart():
    logits = np.array([[[0.0, 20.0], [0.0, 21.0]], [[1.0, 1.0], [0.0, np.log(3)]]], np.float32)
    found = binary.positive_scores(logits)
    assert found.shape == (2, 2) and found[0, 0] < found[0, 1] < 1
    assert found[1] == pytest.approx([0.5, 0.75])


def test_calibration_error_by_hand():
    labels, scores = [0, 1, 1, 1, 0], [0.5, 0.5, 0.9, 0.9, 1.0]
    # Bins of a tenth: .5 with half SSA, gap 0; the last with .9, .9 and 1.0, mean .9333, and two of three SSA.
    assert binary.calibration_error(labels, scores, bins=10) == pytest.approx(3 / 5 * (2.8 - 2) / 3)
    # One bin holds both, whose mean is .275; the bins' edges are at halves and not around them.
    assert binary.calibration_error([0, 1], [0.1, 0.45], bins=2) == pytest.approx(0.5 - 0.275)
    # A confidence of .8 in HP, right four times of five, is calibrated; so is it for P(SSA).
    assert binary.calibration_error([0, 0, 0, 0, 1], [0.2] * 5) == pytest.approx(0)
    assert binary.calibration_error([0] * 5, [0.2] * 5) == pytest.approx(0.2)


def test_the_threshold_lies_between_scores_and_of_equals_is_the_lowest():
    assert binary.choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == pytest.approx(0.4)
    # Below .3: sensitivity 1 and specificity 1/2; above .4: 1/2 and 1. The lower misses no SSA.
    assert binary.choose_threshold([0, 1, 0, 1], [0.1, 0.3, 0.4, 0.9]) == pytest.approx(0.2)
    assert binary.choose_threshold([0, 1, 1], [0.7, 0.7, 0.7]) == 0.5


def test_the_threshold_has_the_best_balanced_accuracy_of_all():
    labels, (scores,) = world(distance=0.8, digits=2)
    cuts = np.arange(0.005, 1, 0.01)  # between any two scores
    best = max(sk.balanced_accuracy_score(labels, scores >= cut) for cut in cuts)
    chosen = binary.choose_threshold(labels, scores)
    assert sk.balanced_accuracy_score(labels, scores >= chosen) == pytest.approx(best) and chosen not in scores


def test_the_threshold_does_not_depend_on_the_share_of_ssa():
    labels, (scores,) = world(distance=0.8)
    chosen = binary.choose_threshold(labels, scores)
    often = np.repeat(np.arange(len(labels)), np.where(labels == 1, 1, 5))
    assert binary.choose_threshold(labels[often], scores[often]) == chosen


def test_the_roc_curve_at_given_rates():
    labels, scores = [0, 0, 1, 1], [0.1, 0.8, 0.4, 0.9]
    np.testing.assert_allclose(binary.sensitivity_at(labels, scores, [0, 0.25, 0.5, 1]), [0.5, 0.5, 1, 1])


@pytest.mark.parametrize("digits", [None, 1])
def test_the_resampled_metrics_are_those_of_images_repeated_as_drawn(digits):
    labels, (scores,) = world(images=40, digits=digits)
    drawn = binary._resamples(labels == 1, 6, seed=3)
    found = binary._measure_resamples(labels == 1, scores, 0.5, drawn)
    for k in range(6):
        times = np.empty(40, int)
        times[labels == 1], times[labels == 0] = drawn[0][k], drawn[1][k]
        again = binary.binary_summary(labels.repeat(times), scores.repeat(times), 0.5)
        assert {name: values[k] for name, values in found.items()} == pytest.approx(
            {name: again[name] for name in binary.MEASURES}
        )


def delong_from_the_definition(labels, first, second):
    """Both AUCs and the variance of their difference, after equations 2 to 5 of DeLong and others, pair by pair."""
    placements = []
    for scores in (first, second):
        of_positive = [s for s, label in zip(scores, labels, strict=True) if label]
        of_negative = [s for s, label in zip(scores, labels, strict=True) if not label]
        psi = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in of_negative] for x in of_positive]
        placements.append(
            (np.array([np.mean(row) for row in psi]), np.array([np.mean(c) for c in zip(*psi, strict=True)]))
        )
    s10, s01 = (np.cov([p[side] for p in placements]) for side in (0, 1))
    covariance = s10 / len(placements[0][0]) + s01 / len(placements[0][1])
    contrast = np.array([1, -1])
    return placements[0][0].mean(), placements[1][0].mean(), contrast @ covariance @ contrast


@pytest.mark.parametrize("digits", [None, 1])
def test_delong_is_that_of_the_definition(digits):
    labels, (first, second) = world(seeds=2, of_seeds=0.5, digits=digits)
    auc, other, variance = delong_from_the_definition(labels, first, second)
    found = binary.delong(labels, first, second)
    assert (found["first"], found["second"], found["mean"]) == pytest.approx((auc, other, auc - other))
    assert auc == pytest.approx(sk.roc_auc_score(labels, first))
    assert found["standard_error"] == pytest.approx(np.sqrt(variance))
    z = (auc - other) / np.sqrt(variance)
    assert found["p_value"] == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert found["high"] - found["low"] == pytest.approx(2 * 1.959964 * np.sqrt(variance))
    assert found["outside_noise"] == (found["p_value"] < 0.05)


def test_delong_agrees_with_the_paired_bootstrap():
    labels, (first, second) = world(images=400, seeds=2, of_seeds=0.5)
    drawn = binary._resamples(labels == 1, 2000, seed=0)
    a, b = (binary._measure_resamples(labels == 1, s, 0.5, drawn)["auc"] for s in (first, second))
    assert binary.delong(labels, first, second)["standard_error"] == pytest.approx((a - b).std(), rel=0.06)


def test_delong_turns_with_its_arms_and_claims_nothing_of_equal_scores():
    labels, (first, second) = world(seeds=2)
    there, back = binary.delong(labels, first, second), binary.delong(labels, second, first)
    assert (there["low"], there["p_value"]) == pytest.approx((-back["high"], back["p_value"]))
    same = binary.delong(labels, first, first**2)  # other numbers, the same ranks
    assert same["mean"] == 0 and same["standard_error"] == 0 and np.isnan(same["p_value"])
    assert not same["outside_noise"]


@pytest.mark.parametrize("of_seeds", [0.0, 0.3])  # where the images alone vary, and where the seeds do more
def test_intervals_of_arms_hold_the_truth_over_images_and_seeds(of_seeds):
    held, claims, truth = [], [], true_auc(1.4, of_seeds)
    for k in range(200):
        labels, scores = world(seeds=6, of_seeds=of_seeds, generator=k)
        arm = binary.arm_interval(labels, scores[:3], resamples=100, seed=k)
        pair = binary.compare_arms(labels, scores[:3], scores[3:], resamples=100, seed=k)  # truly equal arms
        held.append([arm["low"] <= truth <= arm["high"], pair["low"] <= 0 <= pair["high"]])
        claims.append(pair["outside_noise"])
    assert ((np.mean(held, axis=0) > 0.89) & (np.mean(held, axis=0) <= 1)).all()
    assert np.mean(claims) < 0.1


def test_with_one_seed_arms_are_compared_as_delong_does():
    labels, (first, second) = world(images=400, seeds=2, of_seeds=0.5)
    pair, delong = binary.compare_arms(labels, [first], [second]), binary.delong(labels, first, second)
    assert pair["mean"] == pytest.approx(delong["mean"])
    assert pair["standard_error"] == pytest.approx(delong["standard_error"], rel=0.06)


def test_a_spread_over_seeds_alone_gives_students_interval():
    values = np.array([0.9, 0.7, 0.8])
    found = binary._over_seeds_and_images(values, np.tile(values, (50, 1)), 0.95)
    student = metrics.mean_interval(values)
    assert (found["low"], found["high"]) == pytest.approx((student["low"], student["high"]))


def test_what_varies_with_the_images_for_all_seeds_alike_is_added():
    values, shifts = np.array([0.9, 0.7, 0.8]), np.array([-0.1, 0.1])
    found = binary._over_seeds_and_images(values, values + shifts[:, None], 0.95)
    of_seeds, of_images = 0.01 / 3, 0.02  # the variance of 0.9, 0.7, 0.8 by 3, and of -0.1, 0.1 (n - 1)
    error = np.sqrt(of_seeds + of_images)
    assert found["standard_error"] == pytest.approx(error)
    freedom = (of_seeds + of_images) ** 2 / (of_seeds**2 / 2)
    assert found["high"] == pytest.approx(0.8 + stats.t.ppf(0.975, freedom) * error)
    assert found["p_value"] == pytest.approx(2 * stats.t.sf(0.8 / error, freedom))


def test_seeds_that_agree_by_luck_leave_the_interval_no_narrower_than_what_images_do_to_each():
    generator = np.random.default_rng(0)
    resampled = 0.1 * generator.normal(size=(4000, 1)) + 0.3 * generator.normal(size=(4000, 3))
    found = binary._over_seeds_and_images(np.array([0.8, 0.8, 0.8001]), resampled, 0.95)
    assert found["standard_error"] == pytest.approx(np.sqrt(0.09 / 3 + 0.01), rel=0.03)
    lucky = binary.compare_arms(*lucky_arms())
    alone = [binary.delong(lucky_arms()[0], a, b)["standard_error"] for a, b in zip(*lucky_arms()[1:], strict=True)]
    assert lucky["standard_error"] > 0.9 * np.mean(alone) / np.sqrt(3) and np.std(lucky["differences"]) < 1e-3


def lucky_arms():
    """Two arms whose AUCs differ by the same in all three seeds, though each seed ranks the images in its own way."""
    labels, scores = world(images=400, seeds=60)
    aucs = np.array([sk.roc_auc_score(labels, s) for s in scores])
    first, second = scores[:30], scores[30:]
    gaps = aucs[:30, None] - aucs[30:]
    pairs = np.argwhere(np.abs(gaps - np.median(gaps)) < 3e-4)
    chosen = [pairs[0]]
    for a, b in pairs[1:]:
        if all(a != c and b != d for c, d in chosen):
            chosen.append((a, b))
    ((a, b), (c, d), (e, f)) = chosen[:3]
    return labels, first[[a, c, e]], second[[b, d, f]]


def test_the_same_runs_on_two_sets_of_images_are_compared_without_pairing_the_images():
    labels, scores = world(images=800, seeds=3)
    first = np.arange(800) % 4 == 0
    found = binary.compare_images(labels, scores, first, ~first)
    apart = [binary.arm_interval(labels[images], scores[:, images]) for images in (first, ~first)]
    assert found["mean"] == pytest.approx(apart[0]["mean"] - apart[1]["mean"])
    assert found["differences"] == pytest.approx(np.subtract(apart[0]["seeds"], apart[1]["seeds"]))
    widths = [(arm["high"] - arm["low"]) / 2 for arm in apart]
    assert max(widths) < (found["high"] - found["low"]) / 2 < 1.3 * np.hypot(*widths)
    better = np.where(first, np.where(labels, 1 - scores / 9, scores / 9), scores)
    assert binary.compare_images(labels, better, first, ~first)["outside_noise"]


def test_each_seed_has_its_own_threshold_and_differences_are_paired():
    labels, scores = world(seeds=4)
    thresholds = [0.4, 0.6], [0.5, 0.3]
    found = binary.compare_arms(labels, scores[:2], scores[2:], thresholds, "f1", resamples=50)
    values = [
        binary.binary_summary(labels, s, t)["f1"] for s, t in zip(scores, [*thresholds[0], *thresholds[1]], strict=True)
    ]
    assert found["differences"] == pytest.approx([values[0] - values[2], values[1] - values[3]])
    assert binary.arm_interval(labels, scores[:2], thresholds[0], "f1")["seeds"] == pytest.approx(values[:2])


def test_of_a_calibration_error_the_interval_is_around_what_was_measured_and_needs_no_threshold():
    labels, scores = world(images=400, seeds=3)
    sure = np.where(labels == 1, 0.999, 0.001) * np.ones((3, 1))
    found, lower = (binary.arm_interval(labels, s, name="calibration_error") for s in (scores, sure))
    assert found["seeds"] == pytest.approx([binary.calibration_error(labels, s) for s in scores])
    assert found["low"] < found["mean"] < found["high"] < 0.5 and lower["mean"] == pytest.approx(0.001)
    pair = binary.compare_arms(labels, scores, sure, name="calibration_error")
    assert pair["mean"] == pytest.approx(found["mean"] - 0.001) and pair["outside_noise"]


def test_equal_arms_claim_nothing():
    labels, scores = world(seeds=3)
    found = binary.compare_arms(labels, scores, scores, resamples=50)
    assert found["mean"] == found["low"] == found["high"] == 0
    assert np.isnan(found["p_value"]) and not found["outside_noise"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: binary.binary_summary([0, 1], [-1.0, 3.0], 0.5), "positive_scores"),
        (lambda: binary.binary_summary([0, 1], [0.1, NAN], 0.5), "P\\(SSA\\)"),
        (lambda: binary.binary_summary([0, 2], [0.1, 0.2], 0.5), "0 \\(HP\\) or 1 \\(SSA\\)"),
        (lambda: binary.binary_summary([], [], 0.5), "at least one"),
        (lambda: binary.binary_summary([0, 1], [0.1, 0.2, 0.3], 0.5), "each of 2 images"),
        (lambda: binary.choose_threshold([1, 1], [0.1, 0.2]), "both classes"),
        (lambda: binary.delong([0, 0, 1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]), "two images"),
        (lambda: binary.arm_interval([0, 1], [0.1, 0.2]), "\\[seeds, images\\]"),
        (lambda: binary.arm_interval([0, 1], [[0.1, 0.2]], name="f1"), "threshold of each run"),
        (lambda: binary.arm_interval([0, 1], [[0.1, 0.2]], [0.5, 0.5], "f1"), "each of 1 seeds"),
        (lambda: binary.arm_interval([0, 1], [[0.1, 0.2]], name="loss"), "one of"),
        (lambda: binary.compare_arms([0, 1], [[0.1, 0.2]], [[0.1, 0.2]] * 2), "paired by seed"),
        (lambda: binary.compare_images([0, 1], [[0.1, 0.2]], [1, 1], [1, 0]), "1 are in both"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()
