"""Lets the tests of this folder import the stand-ins in tests/support/tensorrt."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support" / "tensorrt"))
