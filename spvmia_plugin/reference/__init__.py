"""Self-prompt calibration: generations from the target, and the reference trained on them."""
