"""Paraphrases of the audited texts: the built-in kinds, which `builtins` names."""
