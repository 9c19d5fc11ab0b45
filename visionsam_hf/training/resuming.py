"""A `Trainer` that stops when it is asked to, and goes on as if it had never stopped."""

import hashlib
import json
import logging
import pickle
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import TrainOutput

from visionsam_hf.data.errors import Interrupted, UserError
from visionsam_hf.data.files import write_text

logger = logging.getLogger(__name__)

_VOUCHER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def vouch_for(checkpoint: Path) -> None:
    """Record the hash of every file of a checkpoint; the record itself appears whole or not at all."""
    write_text(checkpoint / _VOUCHER, json.dumps(_hashes(checkpoint), indent=2))


def keep_newest(directory: Path, limit: int | None, *, best: str | None = None) -> None:
    """Remove all but the newest `limit` checkpoints, by step and not by a clock that may jump; `best` stays too."""
    for checkpoint in _checkpoints(directory)[limit:] if limit else ():
        if best is None or checkpoint.name != Path(best).name:
            shutil.rmtree(checkpoint)


def remove_damaged(directory: Path) -> None:
    """Remove the checkpoints that were never finished, or whose files have changed, down to the newest good one."""
    for checkpoint in _checkpoints(directory):
        if _is_good(checkpoint):
            return
        logger.warning("%s: is unfinished or damaged; the training goes on from an earlier state", checkpoint)
        shutil.rmtree(checkpoint)


def newest_checkpoint(directory: Path) -> str | None:
    """The checkpoint of the highest step."""
    found = _checkpoints(directory)
    return str(found[0]) if found else None


def _checkpoints(directory: Path) -> list[Path]:
    """Newest first."""
    found = [(int(match[1]), path) for path in directory.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _is_good(checkpoint: Path) -> bool:
    try:
        return json.loads((checkpoint / _VOUCHER).read_text(encoding="utf-8")) == _hashes(checkpoint)
    except (OSError, ValueError):
        return False


def _hashes(checkpoint: Path) -> dict[str, str]:
    found = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and not file.name.startswith(_VOUCHER):
            digest = hashlib.sha256()
            with file.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
            found[file.relative_to(checkpoint).as_posix()] = digest.hexdigest()
    return found


class ResumableTrainer(Trainer):
    """`Trainer` with checkpoints that are whole, averages that continue, and a soft stop at SIGTERM and Ctrl-C."""

    # Sums of what is logged since the last log line, by split and name: [total (a tensor of the device), count].
    _sums: dict[str, dict[str, list[Any]]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._resumed_from: str | None = None
        self._asked_to_stop: int | None = None
        self._stopped_by: int | None = None
        self.add_callback(_Seams(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train, from a checkpoint if one is given; True means the newest good one of the output directory, if any.

        Raises:
            Interrupted: SIGTERM or Ctrl-C came; the state was saved first.
            UserError: the checkpoint is damaged, or a data loader's worker died.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._newest_good_checkpoint()
        self._resumed_from = resume_from_checkpoint or None
        self._asked_to_stop = self._stopped_by = None
        try:
            with self._listening():
                output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except pickle.UnpicklingError as error:
            # Only plain tensors are read from a checkpoint; anything that would run code ends here.
            raise UserError(
                f"{resume_from_checkpoint}: is damaged, or holds code ({str(error).splitlines()[0]}); remove it"
            ) from None
        except (RuntimeError, UserError) as error:
            told = _from_worker(error)
            if told is None:
                raise
            raise told from error
        if self._stopped_by is not None:
            advice = f"the training is saved at step {self.state.global_step}; the same command goes on from there"
            raise Interrupted(self._stopped_by, advice)
        return output

    def _newest_good_checkpoint(self) -> str | None:
        directory = Path(self.args.output_dir)
        if self.is_world_process_zero():
            remove_damaged(directory)
        self.accelerator.wait_for_everyone()
        return newest_checkpoint(directory)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """The first signal lets the step end; a second Ctrl-C ends at once, unless processes must stop together."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self._asked_to_stop is not None and number == signal.SIGINT and self.args.world_size == 1:
                raise KeyboardInterrupt
            self._asked_to_stop = number

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop_if_asked(self, control: Any) -> None:
        """After a step: save and stop when any process was asked to; all of them agree on the step."""
        asked = self._asked_to_stop or 0
        if self.args.world_size > 1:
            asked = int(self.accelerator.gather(torch.tensor([asked], device=self.args.device)).max())
        # After the last step there is nothing left to stop: what follows is quick.
        if asked and self.state.global_step < self.state.max_steps:
            control.should_save = control.should_training_stop = True
            self._stopped_by = asked

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        if self.state.global_step >= self.state.max_steps and not self.args.load_best_model_at_end:
            # Resumed from after the last step, Trainer would take one more. The model itself is saved next.
            return
        # The older checkpoints go when the new one is whole, not before.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        directory = Path(self._get_output_dir(trial=trial))
        checkpoint = directory / f"checkpoint-{self.state.global_step}"
        running = {
            "loss": float(self._tr_loss),
            "total_loss": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "sums": {
                split: {name: [float(total), count] for name, (total, count) in sums.items()}
                for split, sums in self._sums.items()
            },
        }
        (checkpoint / self._running_file).write_text(json.dumps(running), encoding="utf-8")
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            vouch_for(checkpoint)
            keep_newest(directory, limit, best=self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    @property
    def _running_file(self) -> str:
        return f"running-{self.args.process_index}-of-{self.args.world_size}.json"

    def continue_averages(self) -> None:
        """Take up the sums of the unfinished log line, so that it shows what an undisturbed run shows."""
        path = Path(self._resumed_from or "") / self._running_file
        if self._resumed_from is None or not path.is_file():  # none: it ran on another number of processes
            return
        running = json.loads(path.read_text(encoding="utf-8"))
        self._tr_loss += running["loss"]
        self._total_loss_scalar = running["total_loss"]
        self._globalstep_last_logged = running["last_logged"]
        for split, sums in running["sums"].items():
            self._sums[split].update({name: list(total) for name, total in sums.items()})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_runtime" in logs:
            # Of the whole training, not of the part since it was resumed.
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)


class _Seams(TrainerCallback):
    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.continue_averages()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.stop_if_asked(control)


def _from_worker(error: Exception) -> UserError | None:
    """What to tell of an error that comes from a data loader's worker process; None for any other."""
    text = str(error)
    if "DataLoader worker" not in text:
        return None
    if isinstance(error, UserError):
        # Its text carries the worker's whole traceback.
        return UserError(text.rpartition("UserError: ")[2])
    if "killed by signal" in text or "exited unexpectedly" in text:
        return UserError(
            "training: a data loader worker died, often for want of memory; lower dataloader_num_workers or"
            " per_device_train_batch_size and repeat (with save_strategy it goes on from the last checkpoint)"
        )
    return None
