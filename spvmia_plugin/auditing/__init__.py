"""The run: what is needed, in which order, computed once."""
