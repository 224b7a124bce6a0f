"""Weights as checkpoints store them: one file per source format."""
