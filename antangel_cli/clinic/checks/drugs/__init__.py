"""Drugs by name, and what speaks against them in a patient: allergies and pregnancy."""
