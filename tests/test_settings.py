"""The profile and the folders are read from the environment, once."""

import pytest

from utils import settings


def test_the_profiles_differ_in_seeds_and_folders():
    full, quick = (settings.read({"KD_PROFILE": name}) for name in ("full", "quick"))
    assert full.seeds == (0, 1, 2, 3, 4) and len(quick.seeds) == 2
    assert full.figures == settings.ROOT / "figures" and quick.figures == settings.ROOT / "figures" / "quick"
    assert full.cache != quick.cache and full.runs != quick.runs


def test_quick_output_never_lies_where_full_results_do(tmp_path):
    quick = settings.read({"KD_PROFILE": "quick", "KD_OUTPUT": str(tmp_path)})
    assert "quick" in quick.runs.parts and "quick" in quick.cache.parts and quick.figures.is_relative_to(tmp_path)


def test_the_data_folder_can_be_named(tmp_path):
    assert settings.read({"KD_PROFILE": "quick", "KD_DATA": str(tmp_path)}).data == tmp_path


def test_unset_it_is_quick_without_a_gpu(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert settings.read({}).profile == "quick"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [object()])
    assert settings.read({}).profile == "full"


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match="KD_PROFILE is 'fast'"):
        settings.read({"KD_PROFILE": "fast"})
