"""Benchmarks of the data stages: speed on one core, and growth with the number of events."""
