"""What a model will do on a machine, said before any of its weights is read."""
