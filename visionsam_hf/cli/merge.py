"""`visionsam merge ADAPTER`: a LoRA adapter and its base model as one plain model."""

from dataclasses import dataclass

from visionsam_hf.data.settings import setting


@dataclass
class MergeSettings:
    """Which adapter, and where the whole model goes."""

    adapter: str = setting("", "LoRA adapter: a directory or a Hub id", required=True, input=True)
    output_dir: str = setting("", "directory of the merged model", required=True)


def run(settings: MergeSettings) -> None:
    """Write a directory that `SamModel.from_pretrained` loads without peft."""
    from visionsam_hf.cli.run import stage_run
    from visionsam_hf.data.errors import UserError
    from visionsam_hf.models.loading import load_model, load_processor, save_model
    from visionsam_hf.models.lora import find_adapter

    adapter = find_adapter(settings.adapter)
    if adapter is None:
        raise UserError(f"{settings.adapter}: is no adapter (it has no adapter_config.json); there is nothing to merge")
    with stage_run("merge", settings) as run:
        save_model(load_model(settings.adapter), load_processor(settings.adapter), run.directory)
        run.results["base_model"] = adapter.base_model_name_or_path
