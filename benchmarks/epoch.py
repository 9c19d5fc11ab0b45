"""An epoch of SFT and of DPO on cached embeddings, against stock `Trainer` and a plain loop that encode at every step.

    python benchmarks/epoch.py [--short] [--images 8] [--batch 8]

The other sides freeze the encoder too, run it once a step for policy and reference together, and see fewer images,
since a sample costs them as much as an epoch costs us; all figures are seconds a sample.
"""

import copy
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from measuring import arguments, compared, device, only_results, report
from shapes import photographs, preferences, sam
from torch.utils.data import DataLoader
from transformers import SamModel, Trainer, TrainerCallback, TrainingArguments

from visionsam_hf import EmbeddingCache, SamDPOConfig, SamDPOTrainer, SamSFTConfig, SamSFTTrainer
from visionsam_hf.models.freezing import freeze
from visionsam_hf.models.loading import image_side, mask_side
from visionsam_hf.training.losses import dice_loss, mask_bce, preference_loss, preference_margin
from visionsam_hf.training.samples import PreferenceCollator, PreferenceSamples, PromptCollator, PromptSamples


class _LastEpoch(TrainerCallback):
    """Seconds of the last epoch: the first one warms up."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.started


def _settings(batch: int, output: str) -> dict:
    return dict(
        output_dir=output, num_train_epochs=2, per_device_train_batch_size=batch, save_strategy="no", report_to="none",
        logging_strategy="no", disable_tqdm=True, use_cpu=device().type == "cpu", dataloader_pin_memory=False,
    )


class _StockTrainer(Trainer):
    """What a user writes around `transformers.Trainer`: pixels in, the frozen encoder at every step."""

    reference: SamModel | None = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # Once a step, though policy and reference both need it.
        embeddings = model.get_image_embeddings(inputs["pixel_values"])
        asked = dict(input_boxes=inputs["boxes"], image_embeddings=embeddings, multimask_output=False)
        logits = model(**asked).pred_masks[:, 0, 0]
        valid = inputs["valid"]
        if self.reference is None:
            target = inputs["targets"][:, 0]
            return (mask_bce(logits, target, valid) + dice_loss(logits, target, valid)).mean()
        with torch.no_grad():
            before = self.reference(**asked).pred_masks[:, 0, 0]
        margin = preference_margin(
            logits, inputs["chosen"], inputs["rejected"], reference_logits=before, valid=valid, normalize="region"
        )
        return preference_loss(margin).mean()


def _stock(
    model: SamModel, samples, collator, batch: int, output: str, reference: SamModel | None = None
) -> Callable[[], float]:
    clock = _LastEpoch()
    settings = {**_settings(batch, output), "num_train_epochs": 1, "remove_unused_columns": False}
    trainer = _StockTrainer(
        model, TrainingArguments(**settings), data_collator=collator, train_dataset=samples, callbacks=[clock]
    )
    trainer.reference = reference

    def run() -> float:
        trainer.train()
        return clock.seconds / len(samples)

    return run


def _plain_loop(model: SamModel, samples, batch: int) -> Callable[[], float]:
    """The loop of the well-known notebook: Adam, Dice and cross-entropy, one box an image."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-5)
    loader = DataLoader(samples, batch_size=batch, shuffle=True, collate_fn=PromptCollator())

    def run() -> float:
        started = time.perf_counter()
        for given in loader:
            output = model(
                pixel_values=given["pixel_values"].to(device()),
                input_boxes=given["boxes"].to(device()),
                multimask_output=False,
            )
            logits, target = output.pred_masks[:, 0, 0], given["targets"][:, 0].to(device())
            loss = (mask_bce(logits, target) + dice_loss(logits, target)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        return (time.perf_counter() - started) / len(samples)

    return run


def _ours(trainer, count: int) -> Callable[[], float]:
    clock = _LastEpoch()
    trainer.add_callback(clock)

    def run() -> float:
        trainer.train()
        return clock.seconds / count

    return run


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="images of our epoch")
    parser.add_argument("--stock-images", type=int, default=2, help="images of the other sides' epochs")
    parser.add_argument(
        "--batch", type=int, default=8, help="samples a step; the other sides take at most their images"
    )
    parser.add_argument("--bf16", action="store_true", help="ours also in bfloat16")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    shape = "small" if options.short else "vit-base"
    base, processor = sam(shape)
    base = base.to(device())
    sides = dict(image_side=image_side(base), mask_side=mask_side(base))
    work = tempfile.mkdtemp(prefix="visionsam-bench-")
    rows, pairs = photographs(options.images, image_side(base), 1), preferences(options.images, image_side(base))
    few = options.stock_images
    cache = EmbeddingCache(work + "/cache", base, processor)
    started = time.perf_counter()
    cache.add(rows, progress=False)
    caching = (time.perf_counter() - started) / len(rows)

    def fresh() -> SamModel:
        model = copy.deepcopy(base)
        freeze(model, "mask_decoder", mask_output="single", scores=False)
        return model

    common = dict(embeddings=work + "/cache", **_settings(options.batch, work + "/ours"))
    small = min(options.batch, few)
    runs = {
        "SFT, ours": _ours(
            SamSFTTrainer(fresh(), SamSFTConfig(w_dice=1.0, **common), rows, processing_class=processor), len(rows)
        ),
        "SFT, stock Trainer": _stock(
            fresh(),
            PromptSamples(rows.select(range(few)), processor, **sides),
            PromptCollator(),
            small,
            work + "/stock",
        ),
        "SFT, plain loop": _plain_loop(fresh(), PromptSamples(rows.select(range(few)), processor, **sides), small),
        "DPO, ours": _ours(
            SamDPOTrainer(fresh(), SamDPOConfig(loss_type="region", **common), pairs, processing_class=processor), len(pairs)
        ),
        "DPO, stock Trainer": _stock(
            fresh(),
            PreferenceSamples(pairs.select(range(few)), processor, **sides),
            PreferenceCollator(),
            small,
            work + "/stock-dpo",
            reference=fresh().requires_grad_(False),
        ),
    }
    if options.bf16:
        common["bf16"] = True
        runs["SFT, ours in bfloat16"] = _ours(
            SamSFTTrainer(fresh(), SamSFTConfig(w_dice=1.0, **common), rows, processing_class=processor), len(rows)
        )
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            seconds[name].append(run())
    middle = {name: round(statistics.median(values), 5) for name, values in seconds.items()}
    samples = PromptSamples(rows, processor, cache=cache, **sides)
    started = time.perf_counter()
    for _ in DataLoader(samples, batch_size=options.batch, collate_fn=PromptCollator()):
        pass
    loading = (time.perf_counter() - started) / len(samples)
    table = [
        compared("SFT epoch from the second on, s a sample", middle["SFT, ours"], name, middle[name], target=60.0)
        for name in ("SFT, stock Trainer", "SFT, plain loop")
    ]
    table.append(
        compared(
            "DPO epoch, s a sample",
            middle["DPO, ours"],
            "DPO, stock Trainer",
            middle["DPO, stock Trainer"],
            target=60.0,
        )
    )
    table += [
        compared(
            f"{kind}: caching and 10 epochs, s a sample", round(caching + 10 * middle[f"{kind}, ours"], 4),
            f"{kind}, stock Trainer", round(10 * middle[f"{kind}, stock Trainer"], 4), target=8.0,
        )
        for kind in ("SFT", "DPO")
    ]
    report(
        "epoch",
        options,
        {
            "shape": shape,
            "images": options.images,
            "batch": options.batch,
            "seconds_a_sample": middle,
            "caching_seconds_an_image": round(caching, 4),
            "loading_seconds_a_sample": round(loading, 5),
            "loading_share": round(loading / middle["SFT, ours"], 3),
            "rows": table,
        },
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    with only_results():
        main()
