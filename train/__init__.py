"""Alignment training, evaluation, report, benchmarks."""
