"""Metrics and intervals against values worked by hand."""

import numpy as np
import pytest

from utils import metrics


def test_classification_summary_of_a_known_case():
    logits = np.log([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    found = metrics.classification_summary([0, 1, 1, 2], logits)
    assert found["accuracy"] == 0.75 and found["errors"] == 1 and found["images"] == 4
    assert found["recall"] == [1.0, 0.5, 1.0]
    assert found["log_loss"] == pytest.approx(-np.mean(np.log([0.8, 0.5, 0.3, 0.8])))


def test_a_class_without_images_has_recall_0_and_breaks_nothing():
    assert metrics.classification_summary([0, 0], np.eye(3)[[0, 0]])["recall"] == [1.0, 0.0, 0.0]


def test_calibration_error_is_zero_when_confidence_equals_accuracy_and_the_gap_otherwise():
    four_of_five = np.log([[0.8, 0.2]] * 5)
    assert metrics.calibration_error(np.array([0, 0, 0, 0, 1]), four_of_five) == pytest.approx(0, abs=1e-12)
    assert metrics.calibration_error(np.array([1, 1, 1, 1, 1]), four_of_five) == pytest.approx(0.8)
    mixed = np.log([[0.8, 0.2], [0.55, 0.45]])
    assert metrics.calibration_error(np.array([0, 0]), mixed) == pytest.approx((0.2 + 0.45) / 2)


def test_agreement_and_kl_to_the_teacher():
    p, q = np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.7, 0.3], [0.6, 0.4]])
    found = metrics.teacher_agreement(np.log(p), np.log(q))
    assert found["agreement"] == 0.5
    assert found["kl_to_teacher"] == pytest.approx(np.mean(np.sum(p * np.log(p / q), axis=1)))
    assert metrics.teacher_agreement(np.log(p), np.log(p)) == {"agreement": 1.0, "kl_to_teacher": pytest.approx(0)}


def test_entropy_grows_with_the_temperature_up_to_log2_of_the_classes():
    logits = np.array([[5.0, 1.0, 0.0, -1.0]])
    entropies = [metrics.softened_entropy(logits, t)[0] for t in (1, 2, 4, 1e6)]
    assert entropies == sorted(entropies) and entropies[-1] == pytest.approx(2.0)
    assert metrics.softened_entropy(np.log([[0.5, 0.25, 0.25]]), 1.0)[0] == pytest.approx(1.5)


def test_interval_of_the_mean_is_students():
    found = metrics.mean_interval([98.0, 98.2, 98.4, 98.1, 98.3])
    # mean 98.2, sd 0.1581, t(0.975, 4) = 2.7764
    assert found["mean"] == pytest.approx(98.2) and found["sd"] == pytest.approx(0.158114, abs=1e-6)
    assert found["high"] - found["mean"] == pytest.approx(2.776445 * 0.158114 / np.sqrt(5), abs=1e-5)


def test_pairs_are_compared_within_their_seed():
    base = np.array([90.0, 95.0, 99.0, 93.0, 97.0])
    found = metrics.paired_difference(base + np.array([1.0, 1.1, 0.9, 1.05, 0.95]), base)
    assert found["mean"] == pytest.approx(1.0) and found["low"] > 0.85 and found["outside_noise"]
    assert found["p_value"] < 1e-4
    noise = metrics.paired_difference(base + np.array([1.0, -1.0, 1.0, -1.0, 0.1]), base)
    assert not noise["outside_noise"] and noise["p_value"] > 0.5


@pytest.mark.parametrize("gap", [0.0, 0.4])
def test_of_pairs_without_spread_nothing_is_claimed(gap):
    second = np.array([93.3, 93.1, 92.7])
    found = metrics.paired_difference(second + gap, second)
    assert found["mean"] == pytest.approx(gap) and np.isnan(found["p_value"]) and not found["outside_noise"]


def test_too_few_or_unpaired_runs_are_refused():
    with pytest.raises(ValueError, match="two runs"):
        metrics.mean_interval([1.0])
    with pytest.raises(ValueError, match="pairs"):
        metrics.paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])


def test_invented_subclasses_that_only_carry_other_numbers_match_wholly():
    known = np.array([0, 0, 1, 1, 2, 2])
    found = metrics.subclass_alignment(known, np.array([5, 5, 3, 3, 4, 4]))
    assert found == {"purity": 1.0, "mutual_information": pytest.approx(1.0)}
    split = metrics.subclass_alignment(known, np.array([0, 1, 2, 2, 3, 3]))  # one known subclass in two halves
    assert split["purity"] == pytest.approx(5 / 6) and 0.5 < split["mutual_information"] < 1
    assert metrics.subclass_alignment(known, np.zeros(6, int)) == {
        "purity": pytest.approx(1 / 3),
        "mutual_information": 0,
    }
