"""Events to tensors: travels to the Hub beside the model. Only same-folder relative imports."""
