"""`python -m visionsam_hf` and `accelerate launch -m visionsam_hf`."""

import sys

from visionsam_hf.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main())
