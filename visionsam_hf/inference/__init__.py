"""Prompts to masks at the original size, and what `predict` reads and writes."""

# Apart from torch, for the settings of commands.
BASELINE_PREFIX = "baseline:"  # before a baseline's name where a model's is expected
TOKENS = 4  # masks that a prompt is answered with: token 0, SAM's single mask, then 1 to 3, its three candidates
