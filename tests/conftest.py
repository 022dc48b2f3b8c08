"""Set before any test imports the package: settings are read once, at import."""

import os

os.environ["KD_PROFILE"] = "quick"  # whatever the shell or a GPU would choose
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
