"""Readers of raw logs: CASAS text and pyadlml CSV pairs to the events table."""
