"""The tables that `lpx bench` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from lpx.bench.report.cost_tables import CostTable


def parity(values: dict[str, Any]) -> Table:
    """AUC of every engine, and its difference to the checkpoint's."""
    table = _table("engine", "AUC", "difference [95 %]", "max |ds|", "flips", parity="left")
    reference = values["reference"]
    table.add_row("torch fp32", f"{reference['auc']:.4f}", "the reference", "", "", "")
    for c in values["candidates"]:
        d = c["auc_difference"]
        table.add_row(
            c["name"],
            f"{c['auc']:.4f}",
            f"{d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]",
            f"{c['score_difference']['max']:.4f}",
            str(c["flips"]),
            _coloured(c["verdict"]),
        )
    return table


def _coloured(verdict: str, more: str = "") -> Text:
    from rich.text import Text

    style = {"holds": "green", "fails": "red"}.get(verdict, "yellow")
    return Text.assemble((verdict, style), more)


def stages(values: dict[str, Any]) -> Table:
    """Stage by stage, of the engines whose parity does not hold."""
    from rich.text import Text

    table = _table("stage of", "against torch [95 %]", "max |ds|", parity="left")
    for candidate in values["candidates"]:
        if not candidate["breaks_at"]:
            continue
        table.add_row(Text(candidate["name"], "bold"))
        for row in candidate["stages"]:
            found = row["against_torch"]
            if found is None:
                table.add_row(f"  {row['kind']}", "", "", "not run")
                continue
            d = found["auc_difference"]
            first = row["kind"] == candidate["breaks_at"]
            table.add_row(
                f"  {row['kind']}",
                f"{d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]",
                f"{found['score_difference']['max']:.4f}",
                _coloured(found["verdict"], " <- first" * first),
            )
    return table


def _table(first: str, *numbers: str, **texts: Literal["left"]) -> Table:
    """A plain table that fits 80 columns: names to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    # Where a terminal is too narrow, names break into lines: cut off, two engines look the same.
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name, side in texts.items():
        table.add_column(name, justify=side, no_wrap=True)
    return table


def latency(values: dict[str, Any]) -> Table:
    """Time per face of every engine at every batch size."""
    from lpx.bench.report.sentences import has_map

    patches = has_map(values)
    headers = ["batch", "ms/face p50", "p90", "p99", "us/patch", "faces/s", "variation"]
    table = _table("engine", *(h for h in headers if patches or h != "us/patch"))
    for entry in (values["reference"], *values["candidates"]):
        for row in entry["latency_by_batch"]:
            table.add_row(
                entry["name"],
                str(row["batch"]),
                f"{row['per_face_p50_ms']:.2f}",
                f"{row['per_face_p90_ms']:.2f}",
                f"{row['per_face_p99_ms']:.2f}",
                *([f"{row['per_patch_p50_us']:.2f}"] if patches else []),
                f"{row['faces_per_second']:.0f}",
                f"{100 * row['cov']:.1f} %",
            )
    return table


def costs(found: CostTable) -> Table:
    """A table of costs."""
    from lpx.bench.report.cost_tables import line

    table = _table(found.heads[0])
    for index, head in enumerate(found.heads[1:], 1):
        if index < found.names:
            table.add_column(head, overflow="fold")
        else:
            table.add_column(head, justify="right", no_wrap=True)
    for row in found.rows:
        table.add_row(*map(line, row))
    return table
