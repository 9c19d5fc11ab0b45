"""What the commands can be told: settings with their choices and ranges, free of what the work imports.

Those that make or look at segmentation data sets: dataset_options.py.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import Count, CountOrAll, Share, setting
from visionsam_hf.data.windows import WindowSettings
from visionsam_hf.embeddings.cache_settings import CacheSettings
from visionsam_hf.inference import BASELINE_PREFIX
from visionsam_hf.training.hyperparameters import DistilSettings, DPOSettings, SFTSettings


@dataclass
class PipelineSettings:
    """A recipe's stages in order, skipping what is done."""

    recipe: str = setting("", "RECIPE_DIR: folder with pipeline.yaml, e.g. recipes/quickstart", required=True)
    only: list[str] = setting([], "stages to run; one in rounds with its round's number, or without for all rounds")
    set: list[str] = setting([], "stage.key=value ...: changes of the recipe's settings")


@dataclass
class QuickstartSettings(PipelineSettings):
    """The whole of recipes/quickstart into outputs/quickstart."""

    recipe: str = setting("quickstart", "the recipe; there is no other here")


@dataclass
class TuneSettings:
    """From a folder of photographs with masks to a tuned model and a report, in one command."""

    data_dir: str = setting("", "DIR: photographs and masks in any layout of docs/data.md, or COCO", required=True, input=True)
    output_dir: str = setting("", "where everything goes (default: outputs/ and the folder's name)")
    model: str = setting("", "the SAM to tune (default: lite-medsam or mobile-sam when here, else visionsam-tiny)", input="model")
    on_error: Literal["stop", "skip"] = setting("stop", "at a damaged photograph or a missing mask: stop, or skip and count it")
    people: bool = setting(False, "people rank, not the oracle: stops with the command that starts the page, then goes on")
    dry_run: bool = setting(False, "say what would happen and about how long it takes, and write nothing")
    set: list[str] = setting([], "stage.key=value ...: changes of the recipe")

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or str(Path("outputs") / Path(self.data_dir).resolve().name)


@dataclass
class EmbedSettings(CacheSettings):
    """Encode the images of a data set once; --info DIR and --prune DIR look after a cache."""

    model_name_or_path: str = setting("", "model whose encoder is used; needed to encode", input="model")
    dataset: str = setting("", "data set with images: a directory or a Hub id; needed to encode", input=True)
    dataset_config: str | None = setting(None, "configuration of a Hub data set that has several, as in TRL")
    splits: list[str] = setting(["train"], "splits to encode")
    variants: Count = setting(1, "looks of every image to encode, as in sft: flips, turns and changed light")
    batch_size: Count | None = setting(None, "the same as embedding_batch_size")
    output_dir: str = setting("", "directory of this stage's record; needed to encode")
    seed: int = setting(0, "unused by encoding; recorded")
    info: str = setting("", "a cache's directory: say what it holds, and encode nothing")
    prune: str = setting("", "a cache's directory: remove what can no longer be read, and encode nothing")

    def __post_init__(self) -> None:
        for key in ("model_name_or_path", "dataset", "embeddings", "output_dir"):
            if not (self.info or self.prune or getattr(self, key)):
                raise UserError(f"embed: missing key '{key}'; add it, or pass --{key} on the command line")
        self.embedding_batch_size = self.batch_size or self.embedding_batch_size


@dataclass
class TrainingInputs:
    """What sft and dpo read, and where they write."""

    model_name_or_path: str = setting(
        "",
        "model to tune (dpo: and to compare with): a directory, a Hub id, or visionsam-tiny; a directory without "
        "weights starts at random",
        required=True,
        input="model",
    )
    dataset: str = setting(
        "", "data set, of masks for sft, of preferences for dpo: a directory or a Hub id", required=True, input=True
    )
    dataset_config: str | None = setting(None, "configuration of a Hub data set that has several, as in TRL")
    train_split: str = setting("train", "split to learn from")
    eval_split: str | None = setting(None, "split to measure on before and after, and every eval_steps if set")
    load_best: bool = setting(True, "with an eval_split: keep the model as it was where training made its IoU there lower")
    output_dir: str | None = setting(None, "directory of the tuned model")


@dataclass
class SFTInputs(TrainingInputs):
    """What sft reads besides."""

    max_train_images: int | None = setting(None, "use only so many images, drawn with the seed (default: all)")


@dataclass
class SFTOptions(SFTSettings, SFTInputs):
    """Supervised fine-tuning of SAM on masks.

    Every field of transformers.TrainingArguments can be set too, e.g. max_steps, num_train_epochs,
    gradient_accumulation_steps, lr_scheduler_type, warmup_steps, bf16, save_steps, push_to_hub.
    """


@dataclass
class DPOOptions(DPOSettings, TrainingInputs):
    """Preference optimisation on ranked masks.

    Every field of transformers.TrainingArguments can be set too, e.g. max_steps, num_train_epochs,
    gradient_accumulation_steps, lr_scheduler_type, warmup_steps, bf16, save_steps, push_to_hub.
    """


@dataclass
class DistilInputs(TrainingInputs):
    """What distil reads, and where it writes."""

    model_name_or_path: str = setting("", "the teacher, any SAM: a directory or a Hub id", required=True, input="model")
    dataset: str = setting(
        "", "images; no label is read: a folder of photographs, a data set's directory, or its Hub id", required=True, input=True
    )
    eval_split: str | None = setting(None, "split to measure on before and after; empty: eval_share of the images")
    eval_share: Share = setting(0.05, "share of the images to measure on and not to learn from, without eval_split")
    max_train_images: int | None = setting(None, "use only so many images, drawn with the seed (default: all)")
    load_best: bool = setting(True, "keep the student as it was where training made its cosine to the teacher lower")
    output_dir: str | None = setting(None, "directory of the student, a plain SAM with the teacher's decoder")


@dataclass
class DistilOptions(DistilSettings, DistilInputs):
    """A small SAM whose encoder learns a large one's embeddings, from images without a label.

    Every field of transformers.TrainingArguments can be set too, e.g. max_steps, num_train_epochs,
    gradient_accumulation_steps, lr_scheduler_type, warmup_steps, bf16, save_steps, push_to_hub.
    """


@dataclass
class CandidatesSettings(CacheSettings):
    """Three masks a prompt from a model, to be ranked."""

    model_name_or_path: str = setting("", "model that proposes", required=True, input="model")
    dataset: str = setting("", "segmentation data set: a directory or a Hub id", required=True, input=True)
    dataset_config: str | None = setting(None, "configuration of a Hub data set that has several, as in TRL")
    splits: list[str] = setting(["train"], "splits to propose masks for; never the held-out one")
    candidate_source: list[str] = setting(
        ["tokens"], "where masks come from: tokens (the paper), thresholds, box_jitter, dropout, grabcut, otsu, shapes"
    )
    max_prompts: int | None = setting(None, "stop after so many prompts a split (default: all)")
    output_dir: str = setting("", "directory of the candidate set", required=True)
    seed: int = setting(0, "seed of jitter and dropout")


@dataclass
class EvaluateSettings(CacheSettings):
    """IoU, Dice, boundaries and calibration of one system on one split."""

    model_name_or_path: str = setting(
        "",
        "directory or Hub id of a SAM, SAM-HQ, SAM 2, EdgeTAM; visionsam-tiny; "
        "baseline:fill_box | fill_ellipse | otsu | grabcut | ridge",
        required=True,
    )
    dataset: str = setting("", "segmentation data set: a directory or a Hub id", required=True, input=True)
    dataset_config: str | None = setting(None, "configuration of a Hub data set that has several, as in TRL")
    output_dir: str = setting("", "where metrics.json and per_sample.parquet go", required=True)
    split: str = setting("", "train | validation | test | heldout (default: heldout if there is one, else test)")
    prompt: Literal["box", "point", "point_pm"] = setting(
        "box", "point: the most interior pixel; point_pm: and a negative beside the defect"
    )
    selection: Literal["single", "score", "oracle"] = setting(
        "single", "the headline's mask: single, score (best-scored of three) or oracle (best of three)"
    )
    streaming: bool = setting(False, "read the data set as a stream, without a copy in the cache")
    batch_size: Count = setting(8, "prompts of one image at once")
    max_prompts: CountOrAll = setting(0, "stop after so many prompts; 0: all")
    correct_iou: float = setting(0.7, "failure cases: from this IoU on a mask is correct")
    aligned_gap: float = setting(0.05, "failure cases: IoU that the best-scored mask may lack to the best one")
    partial_coverage: float = setting(0.8, "failure cases: over-segmentation covers this share of the defect ...")
    partial_precision: float = setting(0.5, "... at a precision below this")
    seed: int = setting(0, "of the bootstrap")
    finder: str = setting(
        "", "finder's directory, or maps:DIR with another system's maps: evaluate without boxes, on good images too", input=False
    )
    # The model as an input of the stage; a baseline is none.
    model_input: str = field(default="", init=False, metadata={"input": "model"})

    def __post_init__(self) -> None:
        self.model_input = "" if self.model_name_or_path.startswith(BASELINE_PREFIX) else self.model_name_or_path


@dataclass
class ReportSettings:
    """report.html, report.json and figures from result files alone, in seconds, without a model."""

    systems: dict[str, Annotated[list[str], Field(min_length=1)]] = setting(
        {}, "name -> directories of evaluate, one a split (several of one split: seeds)", input=True
    )
    directories: list[str] = setting(
        [], "DIR ...: directories of evaluate, instead of systems, which are then named by what made their models", input=True
    )
    output_dir: str = setting(
        "", "where report.html and report.json go; may hold the other stages (default: 'report' beside the directories)"
    )
    finders: list[str] = setting([], "directories of evaluate --finder, beside systems", input=True)
    title: str = setting("Defect segmentation report", "the page's heading")
    training: dict[str, str] = setting({}, "label -> directory of sft or dpo, for the loss curves", input=True)
    candidates: str = setting("", "candidate set directory", input=True)
    preferences: str = setting("", "preference data set directory", input=True)
    dataset: str = setting("", "segmentation data set directory, for its summary and the photographs", input=True)
    seed: int = setting(0, "of the bootstrap and of the examples drawn by lot")

    def __post_init__(self) -> None:
        if bool(self.systems) == bool(self.directories):
            raise UserError("report: give directories of evaluate, DIR DIR ..., or the key 'systems', and not both")
        if not self.output_dir:
            if self.systems:
                raise UserError("report: missing key 'output_dir'; add it, or pass --output_dir DIR")
            parents = [Path(directory).parent for directory in self.directories]
            self.output_dir = str(Path(os.path.commonpath(parents)) / "report")


@dataclass
class PushSettings:
    """Check a model, adapter or data set, and publish it on the Hub; private unless --public."""

    directory: str = setting("", "DIR: directory of a model, an adapter or a data set", required=True)
    repo_id: str = setting("", "REPO_ID: OWNER/NAME on the Hub, or NAME for your own", required=True)
    dry_run: bool = setting(False, "check and show what would be sent; needs no login and no network")
    private: bool | None = setting(None, "only you and whom you invite see it; so is every new repository")
    public: bool = setting(False, "everybody sees it")
    revision: str = setting("", "tag for what is pushed, e.g. v1")
    license: str = setting("", "licence, where it does not follow from what it was made from, e.g. cc-by-4.0")
    base_model: str = setting("", "Hub id of the base model, where it was tuned from a directory")

    def __post_init__(self) -> None:
        if self.public and self.private:
            raise UserError("push: give --private or --public, not both")

    @property
    def wants_private(self) -> bool | None:
        """True, False, or None where the user said nothing."""
        return False if self.public else self.private


@dataclass
class MergeSettings:
    """A LoRA adapter and its base model as one plain model."""

    adapter: str = setting("", "LoRA adapter: a directory or a Hub id", required=True, input="model")
    output_dir: str = setting("", "directory of the merged model", required=True)


@dataclass
class ConvertSettings:
    """An original checkpoint (MobileSAM, LiteMedSAM, SAM, MedSAM) as a model directory."""

    source: str = setting("", "checkpoint: a .pt or .pth file, or the directory of MobileSAM's ONNX pair", required=True)
    output_dir: str = setting("", "directory of the model", required=True)
    image_size: Count | None = setting(
        None, "side of a MobileSAM's square, a multiple of 64 (default: what it was trained with, 1024)"
    )
    min_max: bool | None = setting(
        None, "stretch each image to [0, 1] by its own range (default: for LiteMedSAM; give true for MedSAM)"
    )


@dataclass
class ExportSettings:
    """ONNX files of the encoder and the decoder, checked against the model."""

    model: str = setting(
        "", "model or LoRA adapter: a directory, a Hub id, or visionsam-tiny", required=True, input="model"
    )
    output_dir: str = setting("", "directory for encoder.onnx, decoder.onnx and preprocessing.json", required=True)


@dataclass
class PredictSettings(WindowSettings):
    """Masks for photographs, from boxes, points, a list of prompts, a COCO file, or no prompt."""

    model: str = setting("", "model: a directory, a Hub id, or visionsam-tiny", required=True, input="model")
    image: str = setting("", "photograph, or a folder of them", required=True)
    box: list[float] = setting([], "X1 Y1 X2 Y2 in pixels of the photograph (of every photograph of a folder)")
    point: list[float] = setting([], "X Y in pixels of the photograph (of every photograph of a folder)")
    prompts: str = setting(
        "",
        'prompts for a folder\'s photographs: .jsonl with lines like {"image": "a.png", "box": [...]}, or COCO .json',
    )
    no_box: bool = setting(False, "no prompt: SAM's automatic mask generation finds masks of whatever is there")
    points_per_side: Count = setting(32, "automatic: a grid of so many points a side")
    finder: str = setting("", "no prompt: a finder's directory; its regions prompt the model", input=True)
    min_score: float = setting(0.88, "automatic: masks with a lower predicted IoU are dropped")
    min_stability: float = setting(0.95, "automatic: masks whose outline is less stable are dropped")
    output: str = setting("", "directory for masks, overlays, predictions.jsonl and coco.json", required=True)

    def __post_init__(self) -> None:
        if sum(bool(given) for given in (self.box, self.point, self.prompts, self.no_box, self.finder)) != 1:
            told = "--box X1 Y1 X2 Y2, --point X Y, --prompts FILE, --no-box, or --finder DIR"
            raise UserError(f"predict: give one prompt: {told}")
        for key, count, words in (("box", 4, "X1 Y1 X2 Y2"), ("point", 2, "X Y")):
            if len(getattr(self, key)) not in (0, count):
                raise UserError(f"{key}: has {len(getattr(self, key))} numbers; give {words}")


@dataclass
class DemoSettings(WindowSettings):
    """A page on this machine: draw a box on a photograph, see a model's masks."""

    image: str = setting("", "photograph", required=True)
    model: str = setting("", "model: a directory or a Hub id (default: the best small SAM that is here)", input="model")
    port: Annotated[int, Field(ge=0, le=65535)] = setting(8713, "port to bind")


@dataclass
class FindSettings(CacheSettings):
    """A finder, which needs no box: where a photograph looks wrong, and whether it is good."""

    model_name_or_path: str = setting(
        "", "SAM whose encoder it rests on, and whose masks choose the prompts", required=True, input="model"
    )
    dataset: str = setting("", "segmentation data set with good images too", required=True, input=True)
    dataset_config: str | None = setting(None, "configuration of a Hub data set that has several, as in TRL")
    finder: Literal["bank", "head", "both", "maps"] = setting(
        "both", "bank: from good photographs alone; head: from masks; both; maps: those of another system"
    )
    maps: str = setting("", "folder with another system's maps of the data set's images (finder: maps)", input=True)
    train_split: str = setting("train", "split to learn from")
    eval_split: str | None = setting("validation", "split that chooses prompts and helps to calibrate; null: none")
    max_defective_images: CountOrAll = setting(0, "use only so many defective images, drawn with the seed; 0: all")
    max_good_images: CountOrAll = setting(0, "use only so many good images, drawn with the seed; 0: all")
    bank_size: Count = setting(2000, "cells in the bank")
    folds: Annotated[int, Field(ge=2)] = setting(4, "parts that take turns in the calibration; heads that are averaged")
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] = setting(
        0.05, "share of good photographs that may be called defective"
    )
    output_dir: str = setting("", "directory of the finder", required=True)
    seed: int = setting(0, "of folds, coreset, heads and the choice of images")

    def __post_init__(self) -> None:
        if (self.finder == "maps") != bool(self.maps):
            raise UserError("find: finder maps and the key maps belong together; give both, or neither")
