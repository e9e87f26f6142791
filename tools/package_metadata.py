"""What the package's metadata derive from the repository's address, which stands once, in pyproject.toml.

The build backend reads this file by its path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_RELATIVE = re.compile(r"(?<=\]\()(?!\w+:|#)[^)\s]+")
_PICTURES = (".gif", ".jpg", ".png", ".svg", ".webp")


class PackageMetadata(MetadataHookInterface):
    """Adds the project's addresses, and the README with links that a package index can follow."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fills in ``urls`` and ``readme`` of the ``project`` table."""
        repository, name = self.config["repository"], metadata["name"]
        metadata["urls"] = {
            "Homepage": repository,
            "Documentation": f"https://{name}.readthedocs.io",
            "Changelog": f"{repository}/blob/main/CHANGELOG.md",
            "Issues": f"{repository}/issues",
        }
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute_links(readme, repository)}


def absolute_links(markdown: str, repository: str) -> str:
    """Returns a page of the repository's root with every link to another of its files as an address."""

    def address(link: re.Match[str]) -> str:
        kind = "raw" if link[0].lower().endswith(_PICTURES) else "blob"
        return f"{repository}/{kind}/main/{link[0]}"

    return _RELATIVE.sub(address, markdown)
