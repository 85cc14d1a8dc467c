"""lpx: from a local-prediction deepfake detector's checkpoint to verified edge engines."""

import os
import sys

__version__ = "0.1.0"

# From 1.29 on ONNX Runtime's official builds send what models are loaded, and a number that stands
# for this machine, to Microsoft. It reads this when it is first imported; whoever wants it sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
if "onnxruntime" in sys.modules:
    # Imported before lpx: what is left to do.
    sys.modules["onnxruntime"].disable_telemetry_events()
