"""``python -m rrm_transfer``: the command line under accelerate, torchrun and wherever no script is on PATH."""

from rrm_transfer.cli.app import main

main()
