"""Paraphrases of a text: mask filling, embedding noise, causal replacement."""
