"""Training of the three shipped models: `train_encoder`, `train_detector` and `train_captioner`, and their shared parts."""
