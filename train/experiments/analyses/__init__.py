"""Analyses of docs/RESULTS.md on top of the evaluation engine: context, prompts, and what errors rest on."""
