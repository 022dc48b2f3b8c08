"""The stand-in's schema, its determinism, and that it is no toy: no shortcut by colour, and yet something to learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from utils.data import polyps
from utils.data.mhist import PUBLISHED


@pytest.fixture(scope="module")
def drawn():
    return polyps.draw_polyps(700, size=64)


@pytest.mark.parametrize("part", ["train", "test"])
def test_votes_and_classes_are_spread_as_in_mhist(part):
    published = np.array(PUBLISHED[part]) / sum(PUBLISHED[part])
    found = np.zeros(8)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        votes = polyps.vote(polyps.severities(sum(PUBLISHED[part]), part, rng), rng)
        found += np.bincount(votes, minlength=8) / len(votes) / 10
    assert np.abs(found - published).max() < 0.02
    assert abs(found[4:].sum() - published[4:].sum()) < 0.02


def test_images_are_the_same_for_the_same_seed_and_others_for_another(drawn):
    again = polyps.draw_polyps(700, size=64)
    for name in ("images", "masks", "severity", "votes"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(again, name))
    assert not np.array_equal(polyps.draw_polyps(4, size=64, seed=1).images, polyps.draw_polyps(4, size=64).images)
    assert drawn.images.shape == (700, 64, 64, 3) and drawn.images.dtype == np.uint8
    assert drawn.masks.shape == (700, 64, 64) and 0.2 < drawn.masks.mean() < 0.8


def test_colours_alone_do_not_tell_the_classes_apart(drawn):
    labels = drawn.votes >= polyps.MAJORITY
    histograms = np.array([
        np.concatenate([np.histogram(image[..., c], 16, (0, 256))[0] for c in range(3)]) for image in drawn.images
    ])  # fmt: skip
    half = len(labels) // 2
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))
    scores = model.fit(histograms[:half], labels[:half]).decision_function(histograms[half:])
    assert roc_auc_score(labels[half:], scores) < 0.62


def test_annotators_agree_less_on_borderline_cases(drawn):
    split = np.minimum(drawn.votes, 7 - drawn.votes)  # 0 where all agree
    borderline = np.abs(drawn.severity - 0.5) < 0.2
    assert split[borderline].mean() > 1.5 * split[~borderline].mean()


def test_the_dataset_has_mhists_schema_and_is_kept(tmp_path, monkeypatch):
    data = polyps.load_polyps_standin(60, 30, size=32, cache=tmp_path)
    assert data.standin and "NOT MHIST" in data.source and data.class_names == ("HP", "SSA")
    assert len(data.validation) == 9 and len(data.all_train) == 60 and len(data.test) == 30
    for split in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(split.labels, split.subclasses >= 4)
    monkeypatch.setattr(polyps, "_drawn", lambda *a: pytest.fail("drawn again"))
    assert polyps.load_polyps_standin(60, 30, size=32, cache=tmp_path).digest == data.digest
