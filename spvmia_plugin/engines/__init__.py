"""Targets that lie elsewhere, as backends: behind a server, or in an engine that is no torch model of this process."""
