"""Where images come from (mnist, standin), what holds them (dataset) and how they reach a model (pipeline)."""

from utils.data.dataset import Dataset, Split
from utils.data.mnist import load_mnist

__all__ = ["Dataset", "Split", "load_mnist"]
