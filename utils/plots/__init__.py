"""Every figure, drawn from numbers that lie as JSON beside it: what all share (base), and the figures by subject."""

from pathlib import Path

from utils.plots.base import BLUE, GREEN, ORANGE, PURPLE, RUN, SKY, STYLE, YELLOW, caption, publish, save, store
from utils.plots.explain import explanation_scores, explanations
from utils.plots.methods import features, gain_against_cost, learning_curves_of_methods, method_comparison
from utils.plots.ship import corruption_curves, cost_frontier, over_students, reliability_diagram
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
from utils.plots.task2 import (
    agreement_effect,
    confident_mistakes,
    cost_by_kind,
    polyp_sheet,
    polyp_views,
    roc_curves,
    temperature_panels,
    training_phases,
    transfer_grid,
)


def redraw(content: dict, path: Path) -> None:
    """Draw a stored figure again from what its JSON holds."""
    if content.get("drawn_by") not in __all__:
        raise ValueError(
            f"The figure {content.get('figure')!r} does not say which function of utils.plots drew it (drawn_by is "
            f"{content.get('drawn_by')!r}). Execute the notebook that publishes it again."
        )
    save(globals()[content["drawn_by"]], content, path)


__all__ = [
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "RUN",
    "SKY",
    "STYLE",
    "YELLOW",
    "agreement_effect",
    "caption",
    "confident_mistakes",
    "corruption_curves",
    "cost_by_kind",
    "cost_by_layer",
    "cost_frontier",
    "diagrams",
    "digits",
    "explanation_scores",
    "explanations",
    "features",
    "gain_against_cost",
    "gradient_norms",
    "learning_curves",
    "learning_curves_of_methods",
    "method_comparison",
    "over_students",
    "paired_runs",
    "polyp_sheet",
    "polyp_views",
    "publish",
    "recall_gain",
    "redraw",
    "reliability_diagram",
    "roc_curves",
    "save",
    "search_heatmap",
    "soft_targets",
    "store",
    "target_entropy",
    "temperature_curve",
    "temperature_panels",
    "training_phases",
    "transfer_grid",
]
