"""llama.cpp's side of the comparison: an environment of its own, a GGUF of random weights, and its engine.

`environment.py` runs in ours; the others run in the one that it makes.
"""
