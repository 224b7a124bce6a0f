"""What a machine has and whether a model is sound."""
