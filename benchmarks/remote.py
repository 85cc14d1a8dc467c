"""Time that `lpx remote HOST` adds to a command: both forms in turns, on this very machine.

    python benchmarks/remote.py localhost -w lpx-out PICTURES

HOST must reach this machine, or the difference is that of two machines, and has lpx set up
(`lpx remote HOST setup`). The workspace needs the exported model and calibrated ranges. Printed are
medians and quartiles of wall-clock time; there is nothing left to send.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import click

MAIN = "from lpx.cli.main import main; main()"


def seconds(words: list[str]) -> float:
    """Return the time of a command, seconds."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", MAIN, *words], check=True, capture_output=True)
    return time.perf_counter() - begin


@click.command()
@click.argument("host")
@click.argument("pictures", type=click.Path(exists=True))
@click.option("-w", "--workspace", default="lpx-out", show_default=True)
@click.option("-F", "--ssh-config", help="Configuration of ssh.")
@click.option("--repeats", default=9, show_default=True)
def main(host: str, pictures: str, workspace: str, ssh_config: str | None, repeats: int) -> None:
    """Time commands here and on HOST."""
    remote = ["remote", *(["-F", ssh_config] if ssh_config else []), host]
    folder = ["-w", workspace]
    commands = {
        "doctor": (["doctor"], [*remote, "run", "doctor"]),
        "build --fp32": (
            ["build", "--fp32", "--target", "onnxruntime", *folder],
            [*remote, "build", "--fp32", "--target", "onnxruntime", *folder],
        ),
        "predict": (
            ["predict", "--crops", "--no-overlay", pictures, *folder],
            [*remote, "predict", "--crops", "--no-overlay", pictures, *folder],
        ),
        "pull": (None, [*remote, "pull", *folder]),
    }
    click.echo("| command | here | there | difference |\n|---|---|---|---|")
    for name, (here, there) in commands.items():
        # The first sends, and fills caches.
        for words in (here, there):
            if words is not None:
                seconds(words)
        local, far = [], []
        for _ in range(repeats):
            if here is not None:
                local.append(seconds(here))
            far.append(seconds(there))
        difference = [b - a for a, b in zip(local, far, strict=bool(local))] if local else far
        click.echo(f"| {name} | {shown(local)} | {shown(far)} | {shown(difference)} |")


def shown(times: list[float]) -> str:
    """Return median and quartiles, in seconds."""
    if not times:
        return ""
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
