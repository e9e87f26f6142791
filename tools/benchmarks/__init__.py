"""Benchmarks: ``python -m tools.benchmarks.NAME`` prints a table and JSON. Not collected by pytest."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch is imported, whose profiler measures memory
