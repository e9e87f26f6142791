"""Processes, devices, progress and interruption: the one user of accelerate; no model and no recipe."""
