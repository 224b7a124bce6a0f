"""The model on a GPU: experts in slots in VRAM over frames in host memory, and a whole decode step as one graph."""
