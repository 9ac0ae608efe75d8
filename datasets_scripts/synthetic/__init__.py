"""Synthetic homes: floor plans, people who live in them, and the logs of their sensors."""
