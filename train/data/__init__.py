"""Data for training: windows with captions as batches."""
