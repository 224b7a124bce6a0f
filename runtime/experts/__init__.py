"""Experts that are not all in memory: where they rest, which have a slot, how they come, and what leaves for them."""
