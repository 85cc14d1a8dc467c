"""The program on the board: the modules of this folder, sent through ssh with each request.

They must run on Python 3.6, so that a board whose Python is too old for lpx gets a clear error and
not a syntax error; and they use the standard library only. Requests come on standard input: a line
of JSON, then bytes of files. Replies go to standard output: a marker and a line of JSON, behind
whatever the login shell printed, then bytes or frames. No argument ever passes through a shell.
"""

import errno
import json
import os
import sys

from lpx.remote.agent.files import RefusedError, answer
from lpx.remote.agent.install import install, wheels
from lpx.remote.agent.jobs import follow, have, latest, seen, start, stop
from lpx.remote.agent.machine import installed, probe
from lpx.remote.agent.results import fetch, results

VERBS = {
    "probe": probe,
    "installed": installed,
    "wheels": wheels,
    "install": install,
    "have": have,
    "latest": latest,
    "start": start,
    "follow": follow,
    "stop": stop,
    "seen": seen,
    "results": results,
    "fetch": fetch,
}


def main() -> None:
    """Serve one request."""
    stream = sys.stdin.buffer
    request = json.loads(stream.readline().decode())
    base = os.path.join(os.path.expanduser("~"), os.path.expanduser(request["folder"]))
    try:
        VERBS[request["verb"]](base, request, stream)
    except RefusedError as refusal:
        answer(request, refusal.values)
    except BrokenPipeError:
        # The workstation is gone.
        os._exit(1)
    except OSError as error:
        kind = "disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
        place = error.filename if isinstance(error.filename, str) else base
        text = error.strerror or str(error)
        answer(request, {"refused": kind, "path": place, "text": text})
