"""The profile, the seeds and the folders: read once from the environment, the same for every module.

KD_PROFILE   quick | full. Unset: full where a GPU is found, else quick.
KD_DATA      folder that holds mnist.npz and mhist_dataset/. Unset: data/ beside this package.
KD_OUTPUT    folder for figures, run records and cached arrays. Unset: figures/ and build/ of the project.
"""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ("quick", "full")


@dataclass(frozen=True)
class Settings:
    """What one profile means. Folders are made by whoever writes to them, not here."""

    profile: str
    seeds: tuple[int, ...]
    data: Path
    figures: Path  # each figure (PNG) beside the numbers it was drawn from (JSON)
    runs: Path  # one JSON per finished training run
    cache: Path  # weights and teacher signals: may be deleted at any time


def _default_profile() -> str:
    import tensorflow as tf  # late: reading the folders alone should not cost a TensorFlow import

    return "full" if tf.config.list_physical_devices("GPU") else "quick"


def read(environment=os.environ) -> Settings:
    """Settings from the environment; a ValueError names a profile that does not exist."""
    profile = environment.get("KD_PROFILE") or _default_profile()
    if profile not in PROFILES:
        raise ValueError(f"KD_PROFILE is {profile!r}; it can be one of {PROFILES}. Unset it to choose by hardware.")
    output = environment.get("KD_OUTPUT")
    figures = Path(output) / "figures" if output else ROOT / "figures"
    build = Path(output) / "build" if output else ROOT / "build"
    if profile == "quick":
        figures = figures / "quick"
    return Settings(
        profile=profile,
        seeds=(0, 1, 2, 3, 4) if profile == "full" else (0, 1),
        data=Path(environment.get("KD_DATA") or ROOT / "data"),
        figures=figures,
        runs=figures / "runs",
        cache=build / "cache" / profile,
    )


settings = read()
