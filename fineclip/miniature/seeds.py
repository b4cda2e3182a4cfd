"""Which scenes are used for what. A seed is a collection of its own, so no two purposes share a scene.

The shipped models were trained on the seeds below 10,000; their settings were chosen on `VALIDATION`; `DEMO` is the
web that the demonstration gathers its training data from; `TEST` is for the benchmarks and nothing else.
"""

ENCODER_TRAINING = 1_000
DETECTOR_TRAINING = 2_000
CAPTIONER_TRAINING = 3_000
VALIDATION = 10_000
DEMO = 20_000
TEST = 30_000
