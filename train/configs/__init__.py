"""Settings of runs, and the shipped YAML."""
