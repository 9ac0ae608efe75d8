"""Protocols, probes, scores."""
