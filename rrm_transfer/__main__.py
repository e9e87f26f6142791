"""``python -m rrm_transfer``: the command line under accelerate and torchrun."""

from rrm_transfer.cli.app import main

main()
