"""Captions of windows, their embeddings, and the join of both with the windows."""
