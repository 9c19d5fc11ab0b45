"""How the time a sample changes with the number of images, of boxes an image, and of processes.

    python benchmarks/scaling.py [--short]
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from measuring import alternate, arguments, device, medians, only_results, report, say
from shapes import photographs, sam
from transformers import SamModel, TrainerCallback

from visionsam_hf import SamSFTConfig, SamSFTTrainer
from visionsam_hf.models.decoder import predict_tokens


class _Steps(TrainerCallback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(time.perf_counter())


def _seconds_a_step(shape: str, images: int, steps: int, batch: int) -> float:
    """The median step of a cached SFT run, in this process or in all of a launch together."""
    model, processor = sam(shape)
    rows = photographs(images, model.config.vision_config.image_size, 1)
    clock = _Steps()
    with tempfile.TemporaryDirectory() as work:
        args = SamSFTConfig(
            output_dir=work, embeddings=os.environ.get("BENCH_CACHE", work + "/cache"), max_steps=steps,
            per_device_train_batch_size=batch, report_to="none", logging_strategy="no", disable_tqdm=True,
            use_cpu=device().type == "cpu",
        )
        SamSFTTrainer(model, args, rows, processing_class=processor, callbacks=[clock]).train()
    gaps = [after - before for before, after in zip(clock.times, clock.times[1:])]
    return statistics.median(gaps)


def _boxes(shape: str, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds a box of a forward and backward pass, by boxes an image, for us and for stock SamModel."""
    model = sam(shape)[0].to(device())
    model.requires_grad_(False).mask_decoder.requires_grad_(True)
    grid, side = model.config.prompt_encoder_config.image_embedding_size, model.config.vision_config.image_size
    embedding = torch.randn(1, model.config.prompt_encoder_config.hidden_size, grid, grid, device=device())
    found = {}
    for count in (1, 2, 4, 8):
        boxes = (torch.rand(1, count, 2, 2, device=device()).sort(2).values * side).flatten(2)
        points = torch.zeros(1, count, 2, 2, device=device())

        def fast():
            predict_tokens(model, boxes=boxes, points=points, kinds=["box"], image_embeddings=embedding)[
                0
            ].mean().backward()

        def stock():
            SamModel.forward(model, input_boxes=boxes, image_embeddings=embedding).pred_masks.mean().backward()

        found[str(count)] = medians(alternate({"fast": fast, "stock": stock}, repeats), per=count)
    return found


def _processes(shape: str, images: int, steps: int, batch: int, repeats: int) -> dict[str, float]:
    """Samples a second on one and on two processes of one thread each, at the same batch a process."""
    rates: dict[str, list[float]] = {"1": [], "2": []}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "BENCH_CACHE": cache}
        for turn in range(repeats + 1):
            for count in ("1", "2"):
                command = [
                    sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}",
                    os.path.abspath(__file__), "--step", shape, str(images), str(steps), str(batch),
                ]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                step = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"step"')))["step"]
                if turn:  # the first round fills the cache
                    rates[count].append(int(count) * batch / step)
    return {count: round(statistics.median(values), 3) for count, values in rates.items()}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--step", nargs=4, metavar=("SHAPE", "IMAGES", "STEPS", "BATCH"), help="for launched processes")
    options = parser.parse_args()
    if options.step:
        shape, (images, steps, batch) = options.step[0], map(int, options.step[1:])
        seconds = _seconds_a_step(shape, images, steps, batch)
        if int(os.environ.get("RANK", "0")) == 0:
            say({"step": seconds})
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    repeats = 1 if options.short else options.repeats
    shape = "small" if options.short else "vit-base"
    images = (16, 64) if options.short else (100, 1000, 5000)
    by_images = {str(count): round(_seconds_a_step("small", count, 12, 8) / 8, 5) for count in images}
    processes = _processes("small" if options.short else shape, 8, 6, 4, repeats)
    report(
        "scaling",
        options,
        {
            "seconds_a_sample_by_images": by_images,
            "seconds_a_box_by_boxes_an_image": _boxes(shape, repeats),
            "samples_a_second_by_processes": processes,
            "two_processes_times": round(processes["2"] / processes["1"], 2),
            "two_processes_target": 1.6,
        },
    )


if __name__ == "__main__":
    with only_results():
        main()
