"""Errors that a user can correct. Each message states the place, the problem, the expected value and the remedy.

The command line prints the message of a `FineclipError` and exits with 2; any other exception is a bug, keeps its
traceback and exits with 1.
"""


class FineclipError(Exception):
    """Base class of errors that a user can correct with the information in the message."""


class ConfigError(FineclipError):
    """The configuration is invalid or does not match the files on disk. Detected before the first job where possible."""


class ShardError(FineclipError):
    """A manifest, table or tar is missing, truncated or changed."""


class CheckpointError(FineclipError):
    """A file of weights is absent, unsafe, of another architecture or incomplete."""


class DataError(FineclipError):
    """An input (images, captions, annotations, a benchmark) is absent or cannot be used."""


class TrainingError(FineclipError):
    """A training cannot continue: the loss is not finite, ranks disagree, or too many samples are missing."""


class EvaluationError(FineclipError):
    """Some benchmarks of a run failed; the scores of the others are written."""


class SystemRefusalError(FineclipError):
    """The operating system refused space, a lock, a flush or access. See `fineclip.system_errors`."""


class MemoryLimitError(FineclipError):
    """The memory of a device or of the host is not enough for the job."""
