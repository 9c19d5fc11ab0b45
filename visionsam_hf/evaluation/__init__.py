"""Evaluation: predictions to per-prompt rows, rows to metrics.json, result files to the report."""

# Which of a prompt's four masks is judged. Kept free of imports for the settings of the stages.
SELECTIONS = ("single", "score", "oracle")
