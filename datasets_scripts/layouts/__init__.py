"""Layouts of homes: sensors on a plan, and the texts that describe activities."""
