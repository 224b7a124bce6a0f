"""Ops on tensors: what each means, how each is computed, and which implementation a machine gets."""
