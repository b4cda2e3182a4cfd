"""How the three shipped models were made: what the commands `train_encoder`, `train_detector`, `train_captioner` share."""
