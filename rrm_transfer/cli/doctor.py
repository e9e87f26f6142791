"""``rrm-transfer doctor``."""

from __future__ import annotations

from rrm_transfer.cli import options
from rrm_transfer.cli.output import print_facts, print_json


def doctor(as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """Tell what of this machine a run depends on.

    Versions, optional packages, devices, memory, free disk space, and access to the model hub.

    For example:

        rrm-transfer doctor

        rrm-transfer doctor --json
    """
    from rrm_transfer.runtime.machine import diagnose

    found = diagnose()
    if as_json:
        print_json(found)
        return
    devices = "; ".join(f"{device['kind']} {device['name']}" for device in found["devices"])
    print_facts({key: _words(value) for key, value in (found | {"devices": devices}).items()})


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)
