"""Converts TF-Slim MobileNet checkpoints to SavedModels: `python -m convert`."""
