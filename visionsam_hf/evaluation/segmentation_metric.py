"""The averages of masks as a metric of Hugging Face's `evaluate`: what `visionsam evaluate` counts with.

Apart from visionsam_hf/evaluation/metrics.py, because `evaluate` imports half of transformers, and a report should not
wait for that. `evaluate.load` takes this file by its path.
"""

from collections.abc import Sequence

import datasets
import evaluate

from visionsam_hf.evaluation.metrics import COUNTS, averages


class SegmentationMetric(evaluate.Metric):
    """The averages as an `evaluate.Metric`, offline and on any number of processes.

    It takes counts instead of pixels, which as nested lists would cost more time than the model:

        metric = SegmentationMetric()
        metric.add(**mask_counts(prediction, truth), category="cable")
        metric.compute()["overall"]["iou"]

    On several processes give each `num_process`, `process_id`, `experiment_id` and a shared `cache_dir`;
    process 0 gets the value, the others None. `compute` returns what `averages` returns, and "n".
    """

    def _info(self) -> evaluate.MetricInfo:
        columns = {name: datasets.Value("int64") for name in COUNTS}
        return evaluate.MetricInfo(
            description="Overlap and boundary agreement of segmentation masks, from pixel counts.",
            citation="",
            inputs_description="The ten counts of visionsam_hf.evaluation.metrics.mask_counts, and the prompt's category.",
            features=datasets.Features({**columns, "category": datasets.Value("string")}),
        )

    def _compute(self, category: Sequence[str], **counts: Sequence[int]) -> dict:
        return {"n": len(category), **averages(counts, category)}
