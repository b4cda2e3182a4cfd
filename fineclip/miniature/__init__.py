"""The miniature world: drawn scenes with known content, and three small models that are shipped with the package.

The whole workflow runs on it in minutes, on two cores and without a network, and its results can be compared with the truth.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
