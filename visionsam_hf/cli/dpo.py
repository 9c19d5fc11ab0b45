"""`visionsam dpo CONFIG`: tune SAM on ranked masks."""

from dataclasses import dataclass

from visionsam_hf.data.settings import setting
from visionsam_hf.training.hyperparameters import DPOSettings


@dataclass
class DPOInputs:
    """What the stage reads, and where it writes."""

    model_name_or_path: str = setting(
        "", "model to tune and to compare with: a directory, a Hub id, or visionsam-tiny", required=True, input=True
    )
    dataset: str = setting("", "preference data set: a directory or a Hub id", required=True, input=True)
    train_split: str = setting("train", "split to learn from")
    eval_split: str | None = setting(None, "split to measure the loss on at the end, and every eval_steps if set")
    output_dir: str | None = setting(None, "directory of the tuned model")


HELP = (DPOInputs, DPOSettings)


def settings_class() -> type:
    """The stage's dataclass: its inputs, the objective, and every field of `transformers.TrainingArguments`."""
    from visionsam_hf.cli.training import DPOStageSettings

    return DPOStageSettings


def run(settings: DPOInputs) -> None:
    """Train and write a model directory that `SamModel.from_pretrained` loads."""
    from visionsam_hf.cli.training import train_stage
    from visionsam_hf.data.dataset_directory import load_split
    from visionsam_hf.training.dpo_trainer import SamDPOTrainer

    train = load_split(settings.dataset, settings.train_split, kind="preference")
    held = load_split(settings.dataset, settings.eval_split, kind="preference") if settings.eval_split else None

    def make_trainer(args):
        return SamDPOTrainer(settings.model_name_or_path, args, train, eval_dataset=held)

    train_stage("dpo", settings, make_trainer)
