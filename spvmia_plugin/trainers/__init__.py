"""What stands in other people's training: a callback that writes down who was a member, and what builds its manifest.

It runs in environments whose versions are not ours, installed without our dependencies: nothing here imports more than
transformers and the standard library, before a file or a data set of a kind that needs more is named.
"""
