"""Prompts to masks at the original size, and what `predict` reads and writes."""
