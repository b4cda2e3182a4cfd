"""Seeds of scenes. Each purpose has its own, so no scene is shared between purposes.

The shipped models are trained on seeds below 10,000, and their settings are chosen on `VALIDATION`. `DEMO` is the training data of
the demo, `TEST` is for benchmarks only.
"""

ENCODER_TRAINING = 1_000
DETECTOR_TRAINING = 2_000
CAPTIONER_TRAINING = 3_000
VALIDATION = 10_000
DEMO = 20_000
TEST = 30_000
