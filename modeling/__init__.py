"""Config, model, heads: what travels to the Hub as remote code. Only same-folder relative imports."""
