"""How Sphinx builds the documentation: ``make docs``."""

import sys
from pathlib import Path

import imgateway

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "imgateway"
author = "the imgateway authors"
copyright = author
version = release = imgateway.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "tables"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

# The docstrings are prose with ``code`` in it, and types stand in the signatures.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "furo"
html_title = f"imgateway {release}"
