"""Where images come from (mnist, mhist and their stand-ins), what holds them (dataset) and how they reach a model
(pipeline)."""

from utils.data.dataset import Dataset, Split
from utils.data.mhist import load_mhist
from utils.data.mnist import load_mnist

__all__ = ["Dataset", "Split", "load_mhist", "load_mnist"]
