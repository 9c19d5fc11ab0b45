"""What the command line does for the processes that it is started in, and that it starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from visionsam_hf.cli import command_line as cli

ROOT = Path(__file__).resolve().parents[2]
# What a stage sees: `visionsam --help` has run through the command line's set-up before accelerate is asked.
SCRIPT = """
import sys
from visionsam_hf.cli.command_line import main
main(["--help"])
from accelerate import PartialState
state = PartialState()
print(f"process {state.process_index} of {state.num_processes} on {state.device}")
"""


# Imported by Python itself when it starts; `Late` goes when it shuts down, which is when gloo's threads abort it.
_SITE = """
import atexit, os
class Late:
    def __del__(self): os.write(1, b"shut down")
if os.environ.get("LOCAL_RANK"):
    late = Late()
    atexit.register(lambda: print("registered for the end"))
"""


def test_launched_processes_end_without_pythons_shutdown(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(_SITE)
    for processes in (1, 2):
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
             "-m", "visionsam_hf", "--version"],
            capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("registered for the end") == processes
        assert ("shut down" in done.stdout) == (processes == 1)


def test_launched_processes_meet_without_a_gpu(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
         ROOT / "accelerate_configs" / "multi_cpu.yaml", tmp_path / "script.py"],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "process 0 of 2 on cpu" in done.stdout and "process 1 of 2 on cpu" in done.stdout


def test_forked_workers_die_of_sigterm():
    """A pool of workers ends with SIGTERM; our own handler must not stay with them."""
    with cli._termination_interrupts():
        child = os.fork()
        if child == 0:
            os._exit(0 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert signal.getsignal(signal.SIGTERM) is cli._stop
