"""Variants of one model side by side: adapter, merged, quantised, checkpoints, training seeds."""
