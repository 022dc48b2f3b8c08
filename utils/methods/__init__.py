"""Distillation methods, one file for each paper. METHODS maps the short name to the class."""

from utils.methods.base import FeatureMethod, Method, Sizes
from utils.methods.cid import CID
from utils.methods.crd import CRD
from utils.methods.dist import DIST
from utils.methods.dkd import DKD
from utils.methods.ensemble import Ensemble
from utils.methods.eskd import ESKD
from utils.methods.extractive import Extractive
from utils.methods.fitnets import FitNets
from utils.methods.kd import KD
from utils.methods.lskd import LSKD
from utils.methods.patient import Patient
from utils.methods.rkd import RKD
from utils.methods.scratch import Scratch
from utils.methods.sftn import SFTN, FriendlyTeacher
from utils.methods.skd import SKD, OnSubclasses, SubclassLabels
from utils.methods.subclass import Subclass, SubclassTeacher
from utils.methods.takd import TAKD

METHODS: dict[str, type[Method]] = {
    "kd": KD,
    "fitnets": FitNets,
    "rkd": RKD,
    "crd": CRD,
    "takd": TAKD,
    "subclass": Subclass,
    "skd": SKD,
    "eskd": ESKD,
    "sftn": SFTN,
    "extractive": Extractive,
    "cid": CID,
    "dkd": DKD,
    "dist": DIST,
    "lskd": LSKD,
    "patient": Patient,
    "ensemble": Ensemble,
}

__all__ = [
    "CID",
    "CRD",
    "DIST",
    "DKD",
    "ESKD",
    "KD",
    "LSKD",
    "METHODS",
    "RKD",
    "SFTN",
    "SKD",
    "TAKD",
    "Ensemble",
    "Extractive",
    "FeatureMethod",
    "FitNets",
    "FriendlyTeacher",
    "Method",
    "OnSubclasses",
    "Patient",
    "Scratch",
    "Sizes",
    "Subclass",
    "SubclassLabels",
    "SubclassTeacher",
]
