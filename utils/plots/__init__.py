"""Every figure, drawn from numbers that lie as JSON beside it: what all share (base), and the figures by subject."""

from utils.plots.base import BLUE, GREEN, ORANGE, PURPLE, SKY, STYLE, YELLOW, caption, publish
from utils.plots.methods import features, gain_against_cost, learning_curves_of_methods, method_comparison
from utils.plots.task1 import (
    cost_by_layer,
    diagrams,
    digits,
    gradient_norms,
    learning_curves,
    paired_runs,
    recall_gain,
    search_heatmap,
    soft_targets,
    target_entropy,
    temperature_curve,
)

__all__ = [
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "SKY",
    "STYLE",
    "YELLOW",
    "caption",
    "cost_by_layer",
    "diagrams",
    "digits",
    "features",
    "gain_against_cost",
    "gradient_norms",
    "learning_curves",
    "learning_curves_of_methods",
    "method_comparison",
    "paired_runs",
    "publish",
    "recall_gain",
    "search_heatmap",
    "soft_targets",
    "target_entropy",
    "temperature_curve",
]
