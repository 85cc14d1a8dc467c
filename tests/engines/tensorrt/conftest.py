"""Lets the tests of this folder import its helper modules.

The folder is no package: it would take the name of the `tensorrt` that the tests are about.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
