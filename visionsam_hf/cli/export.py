"""`visionsam export` and `visionsam merge`: a model as ONNX files, and an adapter as a plain model."""

import json
from dataclasses import asdict

from visionsam_hf.cli.options import ExportSettings, MergeSettings
from visionsam_hf.cli.stage import stage_run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.windows import rule_of
from visionsam_hf.models.image_processing import MinMaxSamImageProcessor
from visionsam_hf.models.loading import load_model, load_processor, save_model
from visionsam_hf.models.lora import find_adapter
from visionsam_hf.models.onnx_export import compare, export_onnx

# Below, the files are not the model's.
MIN_IOU = 0.99


def run(settings: ExportSettings) -> None:
    """Write the two files and how images are prepared for them; fails if their masks differ from the model's."""
    with stage_run("export", settings) as run:
        model, processor = load_model(settings.model), load_processor(settings.model)
        export_onnx(model, run.directory)
        agreement = compare(model, processor, run.directory)
        if min(agreement.iou.values()) < MIN_IOU:
            # Not the user's mistake.
            raise RuntimeError(f"masks of the ONNX files differ from the model's: {agreement}")
        image = processor.image_processor
        described = {
            "image_side": model.config.vision_config.image_size,
            "mean": list(image.image_mean),
            "std": list(image.image_std),
            # Each image stretched to [0, 1] by its own range, instead of divided by 255.
            "min_max": isinstance(image, MinMaxSamImageProcessor),
            # What to cut out for a prompt before all that, as the model was tuned.
            "window": asdict(rule_of(processor)),
        }
        (run.directory / "preprocessing.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        run.results.update(iou=agreement.iou, logit_difference=agreement.logit_difference)
    shown = ", ".join(f"{kind} {iou:.4f}" for kind, iou in agreement.iou.items())
    print(
        f"{settings.output_dir}: IoU with PyTorch's masks: {shown}; logits differ by at most {agreement.logit_difference:.1e}"
    )


def run_merge(settings: MergeSettings) -> None:
    """Write a model directory that loads without peft."""
    adapter = find_adapter(settings.adapter)
    if adapter is None:
        raise UserError(f"{settings.adapter}: is no adapter (it has no adapter_config.json); there is nothing to merge")
    with stage_run("merge", settings) as run:
        processor = load_processor(settings.adapter)
        save_model(load_model(settings.adapter), processor, run.directory)
        run.results.update(base_model=adapter.base_model_name_or_path, window=str(rule_of(processor)))
