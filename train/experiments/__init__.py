"""Grids of runs and the results page."""
