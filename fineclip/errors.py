"""What can go wrong by a user's doing, by kind. Each message says where, what, what was expected and what to do.

The command line prints the message of a `FineclipError` and exits with 2; any other exception is a bug, keeps its
traceback and exits with 1.
"""


class FineclipError(Exception):
    """A mistake that its reader can mend: the message is all they need."""


class ConfigError(FineclipError):
    """The configuration is wrong, or does not fit what lies on disk. Found before the first job where possible."""


class ShardError(FineclipError):
    """A manifest, table or tar is gone, cut short, or not the one it was."""


class CheckpointError(FineclipError):
    """A file of weights is absent, unsafe, of another architecture or incomplete."""


class DataError(FineclipError):
    """An input (images, captions, annotations, a benchmark) is absent or cannot be used as it is."""


class TrainingError(FineclipError):
    """A training cannot go on: a loss that is not finite, processes that disagree, too many samples lost."""


class EvaluationError(FineclipError):
    """Some benchmarks of a run failed; the scores of the others are written."""
