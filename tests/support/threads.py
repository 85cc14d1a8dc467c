"""PyTorch on one thread, where results are compared bit for bit: more add in another order."""

from __future__ import annotations

from contextlib import contextmanager

import torch


@contextmanager
def on_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
