"""The report: what a run found, for people (one HTML page), for papers (figures) and for machines (JSON)."""
