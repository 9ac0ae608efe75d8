"""What training reads: windows with captions as batches."""
