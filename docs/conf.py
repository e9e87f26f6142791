"""Sphinx reads this: the documentation's site, built by ``sphinx-build -W docs site``."""

from rrm_transfer import __version__

project = "rrm-transfer"
author = "the rrm-transfer maintainers"
copyright = "2026, the rrm-transfer maintainers"
version = release = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = "rrm-transfer"
nb_execution_mode = "off"  # a test runs the notebook
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
