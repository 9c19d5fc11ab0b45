"""report.html: figures, charts, galleries, the page."""
