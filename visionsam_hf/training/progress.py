"""What a person sees of a training: a bar, and now and then a line with the few figures that tell how it goes."""

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

# Logged name -> how it is called and written; the rest is in `trainer_state.json`, and wherever `report_to` sends it.
_SHOWN = {
    "loss": ("loss", "{:.4f}"),
    "iou": ("IoU", "{:.3f}"),
    "iou/chosen": ("IoU with the chosen mask", "{:.3f}"),
    "iou/truth": ("IoU", "{:.3f}"),
    "cosine": ("cosine to the teacher", "{:.3f}"),
    "rewards/accuracies": ("pairs right", "{:.0%}"),
    "learning_rate": ("lr", "{:.1e}"),
}


def readable(logs: Mapping[str, Any], step: int, steps: int) -> str:
    """One line of a log entry, such as "step 20/100: loss 0.4120, IoU 0.631"; "" for one that shows nothing of it."""
    prefix = "eval_" if any(key.startswith("eval_") for key in logs) else ""
    told = [
        f"{name} {form.format(logs[prefix + key])}"
        for key, (name, form) in _SHOWN.items()
        if isinstance(logs.get(prefix + key), (int, float))
    ]
    return f"step {step}/{steps}{', validation' if prefix else ''}: {', '.join(told)}" if told else ""


class ReadableProgress(ProgressCallback):
    """`ProgressCallback` with lines instead of dictionaries; without bars where `disable_tqdm` says so."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        line = readable(logs or {}, state.global_step, state.max_steps)
        if not (state.is_world_process_zero and line and state.max_steps):
            return
        if self.training_bar is not None:
            self.training_bar.write(line)
        else:
            print(line, flush=True)


class ReadableLines(TrainerCallback):
    """The lines alone, for `disable_tqdm`."""

    training_bar = None
    on_log = ReadableProgress.on_log
