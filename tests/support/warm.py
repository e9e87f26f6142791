"""Imports what a command needs; preloaded by the process that the tests' commands are forked from."""

from __future__ import annotations

import gc

import torch

import rrm_transfer.api
import rrm_transfer.cli.app
import rrm_transfer.report.table  # noqa: F401

torch.set_num_threads(1)
gc.freeze()  # what was imported stays: collections need not look at it
