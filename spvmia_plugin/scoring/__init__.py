"""Token signals: texts in, per-token statistics out."""
