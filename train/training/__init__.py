"""The loop, objectives, losses, checkpoints."""
