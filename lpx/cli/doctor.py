"""`lpx doctor`: what this machine can build and run."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from lpx.api.doctor import Finding, Target
    from lpx.machine.installed import InstalledSize
    from lpx.machine.machine import Machine

# Packages whose size is shown.
_SHOWN_PACKAGES = 5


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def doctor(as_json: bool) -> None:
    """Show what this machine can build and run, and how to get what is missing."""
    from lpx.api.doctor import examine
    from lpx.machine.machine import read_machine

    machine = read_machine()
    findings = examine(machine)
    if as_json:
        click.echo(json.dumps(values(machine, findings), indent=2))
    else:
        show(machine, findings)


def values(machine: Machine, findings: tuple[Finding, ...]) -> dict[str, Any]:
    """Return what `--json` prints."""
    from lpx.api.doctor import targets
    from lpx.machine.installed import installed_size
    from lpx.machine.process_memory import read_memory

    size = installed_size()
    usable = targets(machine, findings)
    return {
        "machine": dataclasses.asdict(machine),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "targets": {name: dataclasses.asdict(target) for name, target in usable.items()},
        "installed": None if size is None else dataclasses.asdict(size),
        "memory": read_memory(),
    }


def show(machine: Machine, findings: tuple[Finding, ...]) -> None:
    """Print the machine, a table of findings, and what can be built and run."""
    from lpx.api.doctor import targets
    from lpx.cli.console import Output
    from lpx.machine.installed import installed_size
    from lpx.machine.process_memory import read_memory

    console = Output()
    console.print(_headline(machine))
    console.print(_table(findings))
    console.print(_closing(targets(machine, findings)))
    console.print(_footprint(installed_size(), read_memory()["process_rss_mib"]))


def _footprint(size: InstalledSize | None, memory_mib: float | None) -> str:
    """Say what lpx takes on the disk and in memory."""
    texts: list[str] = []
    if size is not None:
        largest = list(size.packages_mb.items())[:_SHOWN_PACKAGES]
        names = ", ".join(f"{name} {mb:,.0f}" for name, mb in largest)
        extras = size.total_mb - size.core_mb
        more = ""
        if extras >= 1:
            more = f" and {extras:,.0f} MB for extras"
        texts.append(
            f"On the disk: {size.core_mb:,.0f} MB for lpx and what it needs{more}; largest, in "
            f"MB: {names}."
        )
    if memory_mib is not None:
        texts.append(f"Memory of this process: {memory_mib:.0f} MiB.")
    return " ".join(texts)


def _headline(machine: Machine) -> str:
    parts = [machine.os, machine.architecture, f"{machine.cpu} x {machine.cores}"]
    if machine.jetson:
        board = machine.jetson.board
        if board.startswith("unknown"):
            board = f"Jetson, board {board}"
        parts.insert(0, board)
    if machine.memory_mib:
        parts.append(f"{machine.memory_mib / 1024:.1f} GiB memory")
    text = ", ".join(parts)
    if machine.in_container:
        text += " (in a container)"
    return text


def _table(findings: tuple[Finding, ...]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("found", overflow="fold", max_width=24)
    table.add_column("what it enables, and advice", overflow="fold")
    styles = {"ok": "green", "missing": "red", "warning": "yellow"}
    for finding in findings:
        found = Text(finding.found or finding.status, styles[finding.status])
        enables = Text(finding.enables)
        if finding.advice:
            mark = "warning: " if finding.status == "warning" else ""
            enables.append(f"\n{mark}{finding.advice}", styles[finding.status])
        table.add_row(finding.name, found, enables)
    return table


def _closing(usable: dict[str, Target]) -> str:
    run, build, cannot = [], [], []
    for name, target in usable.items():
        if target.run:
            run.append(name)
        elif target.build:
            build.append(f"build {name} but not run it ({target.reason})")
        else:
            cannot.append(f"{name} ({target.reason})")
    can = [f"run {', '.join(run)}"] * bool(run) + build
    closing = f"This machine can: {'; '.join(can) or 'nothing yet'}."
    if cannot:
        closing += f" Not here: {', '.join(cannot)}."
    return closing
