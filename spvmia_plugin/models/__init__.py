"""The harness's Hugging Face model as a backend: texts in, per-token statistics out."""
