"""`spvmia shadow`: shadows of a target, and a score that is fitted on them."""
