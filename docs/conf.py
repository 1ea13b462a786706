"""Sphinx settings."""

import re
from pathlib import Path

project = "waymax-sim"
author = copyright = "The waymax_sim authors"
package = Path(__file__).parents[1].joinpath("waymax_sim", "__init__.py").read_text(encoding="utf-8")
(release,) = re.findall(r'^__version__ = "(.+)"', package, re.MULTILINE)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"waymax-sim {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
# Not installed for the documents: it needs PyTorch.
autodoc_mock_imports = ["stable_baselines3"]
napoleon_use_ivar = True
napoleon_use_rtype = False
myst_heading_anchors = 3


BOTH_KINDS = re.compile(r"jaxtyping\.(\w+)\[jaxlib\._jax\.Array, ('[^']*')\] \| jaxtyping\.\w+\[ndarray, '[^']*'\]")


def plain_docstring(app, what, name, obj, options, lines):
    """Docstrings have code in single backticks; other characters with a meaning in reStructuredText are escaped."""
    for number, line in enumerate(lines):
        line = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
        if line.startswith(":vartype"):
            line = BOTH_KINDS.sub(r"\1[Array, \2]", line).replace("*", r"\*")
        lines[number] = line.replace("|", r"\|")


def setup(app):
    app.connect("autodoc-process-docstring", plain_docstring)
