"""What a training leaves in `training.json`, for models that no training made."""

TRAINING = {
    "home": "toy",
    "windows": {"train": 1, "validation": 1},
    "captions": {"train": 1, "validation": 1},
    "config": {
        "preset": "tiny",
        "batch_size": 2,
        "epochs": 1,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "temperature": 0.07,
        "dropout": 0.1,
        "seed": 0,
        "caption_style": "narrative",
    },
    "processes": 1,
    "device": "cpu",
    "precision": "float32",
    "versions": {},
    "step": 1,
    "validation": None,
}
