"""Training: one loop for every method (see `train.py`)."""
