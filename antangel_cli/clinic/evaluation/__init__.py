"""Evaluation: answers against `gold`, with intervals, by group, against an earlier run, and against twins."""
