"""The metric's page: two mask images, and the numbers that `defect_masks` gives them."""

from typing import Any

import numpy as np
from metrics import mask_counts, metric_values


def rows(prediction: np.ndarray | None, truth: np.ndarray | None) -> list[list]:
    """[metric, value] of two (H, W) images in which a mask is what is brighter than half; none while one is missing."""
    if prediction is None or truth is None:
        return []
    values = metric_values(mask_counts(prediction > 127, truth > 127))
    return [[name, round(float(value), 4)] for name, value in values.items()]


def page() -> Any:
    """The Gradio page."""
    import gradio as gr

    def compare(prediction: np.ndarray | None, truth: np.ndarray | None) -> list[list]:
        try:
            return rows(prediction, truth)
        except ValueError as error:
            raise gr.Error(str(error)) from None

    with gr.Blocks(title="Defect masks") as blocks:
        gr.Markdown("# Defect masks\nTwo masks as images (white on black, of one size), and how well they fit.")
        with gr.Row():
            images = [
                gr.Image(type="numpy", image_mode="L", sources=["upload"], label=name)
                for name in ("prediction", "truth")
            ]
        table = gr.Dataframe(headers=["metric", "value"], label="values")
        for image in images:
            image.change(compare, images, table)
    return blocks


if __name__ == "__main__":
    page().launch()
