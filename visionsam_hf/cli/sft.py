"""`visionsam sft CONFIG`: fine-tune SAM on masks."""

from dataclasses import dataclass

from visionsam_hf.data.settings import setting
from visionsam_hf.training.hyperparameters import SFTSettings


@dataclass
class SFTInputs:
    """What the stage reads, and where it writes."""

    model_name_or_path: str = setting(
        "", "model to tune: a directory, a Hub id, or visionsam-tiny; a directory without weights starts at random",
        required=True, input=True,
    )
    dataset: str = setting("", "segmentation data set: a directory or a Hub id", required=True, input=True)
    train_split: str = setting("train", "split to learn from")
    eval_split: str | None = setting(None, "split to measure the loss on at the end, and every eval_steps if set")
    max_train_images: int | None = setting(None, "use only so many images, drawn with the seed (default: all)")
    output_dir: str | None = setting(None, "directory of the tuned model")


HELP = (SFTInputs, SFTSettings)


def settings_class() -> type:
    """The stage's dataclass: its inputs, the objective, and every field of `transformers.TrainingArguments`."""
    from visionsam_hf.cli.training import SFTStageSettings

    return SFTStageSettings


def run(settings: SFTInputs) -> None:
    """Train and write a model directory that `SamModel.from_pretrained` loads."""
    from visionsam_hf.cli.training import choose_images, train_stage
    from visionsam_hf.data.dataset_directory import load_split
    from visionsam_hf.training.sft_trainer import SamSFTTrainer

    train = choose_images(load_split(settings.dataset, settings.train_split, kind="segmentation"), settings)
    held = load_split(settings.dataset, settings.eval_split, kind="segmentation") if settings.eval_split else None

    def make_trainer(args):
        return SamSFTTrainer(settings.model_name_or_path, args, train, eval_dataset=held)

    train_stage("sft", settings, make_trainer)
