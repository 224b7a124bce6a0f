"""Fuzzing: inputs that nobody would write, against everything that reads. `python -m fuzz` (make fuzz), docs/fuzzing.md."""
