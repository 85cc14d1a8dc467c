"""A page in a real browser, where there is one."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
CHROME = next(filter(None, map(shutil.which, BROWSERS)), None)

# A browser's window is no narrower than 500 pixels, a frame may be.
PHONE = """<!DOCTYPE html><iframe width="375" height="700" srcdoc="{}"></iframe><script>
onload = function () {{
  document.body.appendChild(frames[0].document.getElementById("probe").cloneNode(true));
}};
</script>"""


def look(page: str, folder: Path, view: str = "") -> tuple[dict[str, Any], str]:
    """Open a page in a browser; return what the probe saw and the browser's log.

    Args:
        page: HTML, with a script that leaves JSON in an element named probe.
        folder: For the page and the browser's profile.
        view: The fragment of the address.
    """
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [
        str(CHROME),
        "--headless",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1360,900",
        "--dump-dom",
        f"{path.as_uri()}{view}",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.insert(1, "--no-sandbox")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (seen,) = re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout, flags=re.S)
    return json.loads(html.unescape(seen)), done.stderr


needs_browser = pytest.mark.skipif(
    CHROME is None, reason="no chromium or google-chrome on this machine"
)
