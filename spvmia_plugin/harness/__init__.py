"""The only place that imports lm_eval."""
