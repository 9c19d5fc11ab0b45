"""`visionsam export MODEL`: ONNX files of the encoder and the decoder, checked against the model."""

from dataclasses import dataclass

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting

# Below, the files are not the model's.
MIN_IOU = 0.99


@dataclass
class ExportSettings:
    """What is exported, and where to."""

    model: str = setting(
        "", "model or LoRA adapter: a directory, a Hub id, or visionsam-tiny", required=True, input=True
    )
    output_dir: str = setting("", "directory for encoder.onnx, decoder.onnx and preprocessing.json", required=True)


def run(settings: ExportSettings) -> None:
    """Write the two files and how images are prepared for them; fails if their masks differ from the model's."""
    import importlib.util
    import json

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export: needs {', '.join(missing)}; pip install 'visionsam_hf[onnx]'")
    from visionsam_hf.cli.run import stage_run
    from visionsam_hf.models.loading import load_model, load_processor
    from visionsam_hf.models.onnx_export import compare, export_onnx

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
        }
        (run.directory / "preprocessing.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        run.results.update(iou=agreement.iou, logit_difference=agreement.logit_difference)
    shown = ", ".join(f"{kind} {iou:.4f}" for kind, iou in agreement.iou.items())
    print(
        f"{settings.output_dir}: IoU with PyTorch's masks: {shown}; logits differ by at most {agreement.logit_difference:.1e}"
    )
