"""Losses, settings, samples and the two trainers."""
