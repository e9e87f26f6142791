"""The command line on several ranks that share the first GPU, through gloo; torchrun starts it."""

from __future__ import annotations

import os

import torch

from rrm_transfer.cli.app import main

if __name__ == "__main__":
    os.environ["LOCAL_RANK"] = "0"
    torch.cuda.set_device(0)
    torch.distributed.init_process_group("gloo")
    main()
