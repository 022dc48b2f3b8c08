"""Knowledge distillation for visual classification: the package behind Task1.ipynb and Task2.ipynb."""
