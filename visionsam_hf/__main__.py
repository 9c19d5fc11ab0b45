"""`python -m visionsam_hf` and `accelerate launch -m visionsam_hf`."""

from visionsam_hf.cli.command_line import main
from visionsam_hf.cli.stage import leave_launched

if __name__ == "__main__":
    leave_launched(main())
