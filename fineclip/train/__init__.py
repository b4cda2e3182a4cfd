"""One loop for every method: order of samples, reading, processes, optimiser, checkpoints."""
