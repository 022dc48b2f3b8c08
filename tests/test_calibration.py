"""Temperature scaling finds the temperature that is there, and the bins add up to the calibration error."""

import matplotlib
import numpy as np
import pytest
from scipy import special

from utils import binary
from utils.calibration import in_bins, reliability, temperature_scaling
from utils.metrics import calibration_error
from utils.plots.ship import reliability_diagram

matplotlib.use("agg")


@pytest.fixture(scope="module")
def honest():
    """Labels drawn from the very probabilities that the logits say: calibrated as they are."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((20_000, 4))
    return (special.softmax(logits, axis=-1).cumsum(axis=-1) < rng.random((20_000, 1))).sum(axis=-1), logits


@pytest.mark.parametrize("overconfidence", [0.3, 1.0, 4.0])
def test_the_temperature_that_logits_were_multiplied_by_is_found(honest, overconfidence):
    labels, logits = honest
    found = temperature_scaling(labels, overconfidence * logits)
    assert found == pytest.approx(overconfidence, rel=0.03)
    # The same problem in other units: exact, unlike the sampled labels.
    assert found == pytest.approx(overconfidence * temperature_scaling(labels, logits), rel=1e-4)
    assert calibration_error(labels, overconfidence * logits / found) < 0.01


def test_no_other_temperature_makes_the_labels_likelier(honest):
    labels, logits = honest
    found = temperature_scaling(labels, 3 * logits)

    def loss(t):
        return -special.log_softmax(3 * logits / t, axis=-1)[np.arange(len(labels)), labels].mean()

    assert loss(found) < min(loss(0.98 * found), loss(1.02 * found))


def test_where_nothing_is_wrong_there_is_no_temperature():
    with pytest.raises(ValueError, match="not trained on"):
        temperature_scaling([0, 1], [[2.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_bins_add_up_to_the_calibration_error(honest, bins):
    labels, logits = honest[0], 3 * honest[1]
    table = reliability(labels, logits, bins)
    gaps = np.abs(np.subtract(table["accuracy"], table["confidence"]))
    assert np.average(gaps, weights=table["count"]) == pytest.approx(calibration_error(labels, logits, bins))
    assert sum(table["count"]) == len(labels) and len(table["low"]) <= bins


def test_a_bin_has_wilsons_interval_and_empty_bins_are_left_out():
    table = reliability([0] * 8 + [1] * 2, np.log([[0.75, 0.25]] * 10), bins=10)
    assert table["count"] == [10] and (table["from"], table["to"]) == ([0.7], [0.8])
    assert table["confidence"] == [pytest.approx(0.75)] and table["accuracy"] == [0.8]
    assert (table["low"][0], table["high"][0]) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


@pytest.mark.parametrize(
    ("labels", "logits"), [([0], [[1.0, 2.0]] * 2), ([], np.zeros((0, 2))), ([0, 1], [[np.nan, 0.0]] * 2)]
)
def test_what_does_not_fit_together_is_refused(labels, logits):
    for function in (temperature_scaling, reliability):
        with pytest.raises(ValueError, match="finite logits"):
            function(labels, logits)


def test_the_diagram_shows_the_points_and_the_error(honest):
    bins = reliability(*honest)
    models = [{"name": "honest", "calibration_error": 0.0123, "temperature": 2.5, "bins": bins}]
    ax = reliability_diagram({"models": models}, "made for tests").axes[0]
    points = next(line for line in ax.lines if len(line.get_xdata()) == len(bins["count"]))
    np.testing.assert_allclose(points.get_xydata(), np.transpose([bins["confidence"], bins["accuracy"]]))
    (note,) = [t.get_text() for t in ax.texts]
    assert "1.23 %" in note and "2.50" in note and ax.get_xlabel() and ax.get_ylabel()


def test_bins_of_any_probability_are_those_of_the_binary_calibration_error(honest):
    labels, logits = honest
    scores, happened = 1 / (1 + np.exp(-logits[:, 0])), labels == 0
    table = in_bins(scores, happened, bins=binary.BINS)
    gaps = np.abs(np.subtract(table["accuracy"], table["confidence"]))
    expected = binary.calibration_error(happened.astype(int), scores)
    assert np.average(gaps, weights=table["count"]) == pytest.approx(expected) and sum(table["count"]) == len(labels)
    for wrong in (scores[:-1], 2 * scores):
        with pytest.raises(ValueError, match="One probability"):
            in_bins(wrong, happened, bins=5)
    numbers = {"models": [{"name": "x", "calibration_error": 0.1, "bins": table}], "axes": ["P(SSA)", "share of SSA"]}
    ax = reliability_diagram(numbers, "made for tests").axes[0]
    assert ax.get_xlabel() == "P(SSA)" and ax.get_ylabel() == "share of SSA; grey: share of images"
