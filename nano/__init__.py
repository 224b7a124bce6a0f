"""The embedded demonstration model: its knowledge, its corpus, its training. Nothing of it is medical knowledge."""
