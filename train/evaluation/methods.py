"""Names of what an evaluation compares."""

OWN = ("linear_probe", "layer_probe", "zero_shot")  # the methods that are this model; all others stand beside it
