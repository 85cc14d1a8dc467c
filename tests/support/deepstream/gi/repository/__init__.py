"""Stands in for GStreamer: a pipeline through which one buffer goes."""

import os
from types import SimpleNamespace

import pyds

_PROBES = {}
_HANDLERS = []


class _Pad:
    def __init__(self, name):
        self.name = name

    def add_probe(self, kind, probe, *data):
        _PROBES[self.name] = lambda info: probe(self, info, *data)


class _Bus:
    def add_signal_watch(self):
        pass

    def connect(self, signal, handler):
        _HANDLERS.append(handler)


class _Pipeline:
    def __init__(self, description):
        print("#", description)

    def get_by_name(self, name):
        assert name == "faces"
        return SimpleNamespace(get_static_pad=_Pad)

    def get_bus(self):
        return _Bus()

    def set_state(self, state):
        print("# state", state)


class _Loop:
    def run(self):
        info = SimpleNamespace(get_buffer=lambda: "buffer")
        _PROBES["sink"](info)
        pyds.infer()
        _PROBES["src"](info)
        failed = os.environ.get("FAKE_ERROR")
        message = SimpleNamespace(
            type="error" if failed else "eos", parse_error=lambda: ("no such file", "")
        )
        _HANDLERS[0](None, message)

    def quit(self):
        print("# quit")


Gst = SimpleNamespace(
    init=lambda arguments: None,
    parse_launch=_Pipeline,
    PadProbeType=SimpleNamespace(BUFFER="buffer"),
    PadProbeReturn=SimpleNamespace(OK="ok", DROP="drop"),
    MessageType=SimpleNamespace(ERROR="error", EOS="eos"),
    State=SimpleNamespace(PLAYING="playing", NULL="null"),
)
GLib = SimpleNamespace(MainLoop=_Loop)
