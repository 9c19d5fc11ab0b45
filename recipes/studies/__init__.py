"""Studies that only make this repository's own pages: evidence over folds and seeds, figures, contact sheets."""
