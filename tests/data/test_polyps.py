"""The stand-in's schema, its determinism, and that it is no toy: no shortcut by colour, and yet something to learn."""

import numpy as np
import pytest
from scipy.ndimage import binary_closing, binary_opening
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.polyps import colours
from utils.data import polyps
from utils.data.mhist import PUBLISHED


@pytest.fixture(scope="module")
def drawn():
    return polyps.draw_polyps(700, size=64)


def auc_of(features, labels):
    """Of a logistic regression on the first half of the images, over the second half."""
    half = len(labels) // 2
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))
    return roc_auc_score(labels[half:], model.fit(features[:half], labels[:half]).decision_function(features[half:]))


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


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_parts_that_are_used_are_spread_so_too(part, monkeypatch):
    monkeypatch.setattr(polyps, "draw_polyp", lambda rng, severity, size: (0, False))
    published = np.array(PUBLISHED[part]) / sum(PUBLISHED[part])
    votes = polyps.draw_polyps(sum(PUBLISHED[part]), size=1, part=part).votes
    assert np.abs(np.bincount(votes, minlength=8) / len(votes) - published).max() < 0.02
    assert abs((votes >= polyps.MAJORITY).mean() - published[4:].sum()) < 0.02


def test_images_are_the_same_for_the_same_seed_and_others_for_another(drawn):
    fewer = polyps.draw_polyps(20, size=64)
    for name in ("images", "masks", "severity", "votes"):
        np.testing.assert_array_equal(getattr(drawn, name)[:20], getattr(fewer, name))
    for other in ({"seed": 1}, {"part": "test"}):
        assert not np.array_equal(polyps.draw_polyps(4, size=64, **other).images, fewer.images[:4])
    assert len(np.unique(drawn.images.reshape(700, -1)[:, :500], axis=0)) == 700
    assert drawn.images.shape == (700, 64, 64, 3) and drawn.images.dtype == np.uint8
    assert drawn.masks.shape == (700, 64, 64) and drawn.masks.dtype == bool


def test_masks_are_where_the_crypts_are(drawn):
    assert 0.4 < drawn.masks.mean() < 0.7
    light = drawn.images.mean(axis=-1)
    for image, mask in zip(light[:50], drawn.masks, strict=False):
        lumen = image > np.quantile(image, 0.92)  # the palest pixels are holes
        assert mask[lumen].mean() > 0.9


def test_colours_alone_do_not_tell_the_classes_apart(drawn):
    assert auc_of(colours(drawn.images), drawn.votes >= polyps.MAJORITY) < 0.62


def test_shape_tells_the_classes_apart(drawn):
    """Teeth are what opening and closing the pale lumens takes away: a floor under what a network can learn."""
    light = drawn.images.mean(axis=-1)
    lumen = light > np.quantile(light, 0.8, axis=(1, 2), keepdims=True)
    teeth = []
    for hole in lumen:
        teeth.append([np.mean(hole ^ change(hole, np.ones((k, k)))) for change in (binary_opening, binary_closing)
                      for k in (3, 5, 7)])  # fmt: skip
    assert auc_of(np.array(teeth), drawn.votes >= polyps.MAJORITY) > 0.7


def test_annotators_agree_less_on_borderline_cases(drawn):
    split = np.minimum(drawn.votes, 7 - drawn.votes)  # 0 where all agree
    borderline = np.abs(drawn.severity - 0.5) < 0.2
    assert split[borderline].mean() > 1.5 * split[~borderline].mean()


def test_the_dataset_has_mhists_schema_and_is_kept(tmp_path, monkeypatch):
    data = polyps.load_polyps_standin(120, 30, size=32, cache=tmp_path)
    assert data.standin and "NOT MHIST" in data.source and data.class_names == ("HP", "SSA")
    assert len(data.validation) == 18 and len(data.all_train) == 120 and len(data.test) == 30
    for split in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(split.labels, split.subclasses >= 4)
    whole, held_out = (np.bincount(split.subclasses, minlength=8) for split in (data.all_train, data.validation))
    assert np.abs(held_out - whole * 18 / 120).max() < 1  # stratified by votes
    monkeypatch.setattr(polyps, "_drawn", lambda *a: pytest.fail("drawn again"))
    assert polyps.load_polyps_standin(120, 30, size=32, cache=tmp_path).digest == data.digest


def test_the_truth_belongs_to_the_images_and_is_not_drawn_again(tmp_path, monkeypatch):
    data = polyps.load_polyps_standin(120, 30, size=32, cache=tmp_path)
    again = polyps.draw_polyps(120, size=32)
    monkeypatch.setattr(polyps, "_drawn", lambda *a: pytest.fail("drawn again"))
    masks, severity = polyps.polyps_truth("train", 120, size=32, cache=tmp_path)
    rows = data.validation.rows
    np.testing.assert_array_equal(again.images[rows], data.validation.images)
    np.testing.assert_array_equal(again.masks[rows], masks[rows])
    np.testing.assert_array_equal(again.severity, severity)


def test_a_part_that_the_stand_in_does_not_have_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"part is 'validation'.*'train', which holds the validation images too"):
        polyps.polyps_truth("validation", cache=tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def change_a_pixel(path):
    content = bytearray(path.read_bytes())
    content[3000] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [cut, change_a_pixel, lambda path: path.write_bytes(b""), lambda path: path.unlink()]
)
def test_a_damaged_archive_is_drawn_again(damage, tmp_path):
    digest = polyps.load_polyps_standin(120, 20, size=16, cache=tmp_path).digest
    archives = sorted((tmp_path / "polyps").iterdir())
    assert [path.name.split("-")[0] for path in archives] == ["test", "train"]  # and no remains of writing them
    intact = archives[1].read_bytes()
    damage(archives[1])
    assert polyps.load_polyps_standin(120, 20, size=16, cache=tmp_path).digest == digest
    assert len(archives[1].read_bytes()) == len(intact) and sorted((tmp_path / "polyps").iterdir()) == archives
