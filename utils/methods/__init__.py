"""Distillation methods, one file for each paper. METHODS maps the short name to the class."""

from utils.methods.base import Method, Sizes
from utils.methods.kd import KD
from utils.methods.scratch import Scratch

METHODS: dict[str, type[Method]] = {
    "kd": KD,
}

__all__ = ["KD", "METHODS", "Method", "Scratch", "Sizes"]
