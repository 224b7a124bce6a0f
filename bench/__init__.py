"""Measurements, one JSON per run (house.md, Tests 7)."""
