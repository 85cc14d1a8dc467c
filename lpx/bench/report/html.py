"""The report as one self-contained HTML file: no network, no fonts, no other files."""

from __future__ import annotations

import math
from dataclasses import asdict

from lpx.bench.parity.parity import CONCORDANCE, MIN_GROUPS
from lpx.bench.parity.run import BenchResult
from lpx.bench.report.cost_tables import cost_tables
from lpx.bench.report.document.report import SCHEMA, Report
from lpx.bench.report.engine_table import columns, rows
from lpx.bench.report.example_faces import examples, ramp
from lpx.bench.report.figures import draw
from lpx.bench.report.headline import headline, others, warnings
from lpx.bench.report.pages import environment
from lpx.bench.report.pixel_sentences import pixel_facts, pixel_verdicts
from lpx.bench.report.sentences import (
    STAGES,
    ability,
    auc,
    failure,
    has_map,
    interval_kinds,
    signed,
    significant,
    speed_notes,
)
from lpx.bench.report.svg import mark


def render_html(report: Report, result: BenchResult) -> str:
    """Render a report for a browser.

    Args:
        report: The report of `result`.
        result: Scores, times and example faces for the figures.

    Returns:
        An HTML document that refers to nothing outside itself. The same arguments give the same
        text.
    """
    names = list(result.scored.predictions)
    # Only markup and order are decided in the template; every number is computed here or before.
    templates = environment()
    templates.filters |= {"auc": auc, "significant": significant, "signed": signed}
    templates.tests |= {"finite": math.isfinite}
    return templates.get_template("report.html.j2").render(
        report=report,
        schema=SCHEMA,
        model=report.model.to_dict(),
        memory=asdict(report.environment.memory) if report.environment.memory else {},
        conditions=report.environment.conditions and asdict(report.environment.conditions),
        min_groups=MIN_GROUPS,
        headline=headline(report),
        ability=ability(report),
        concordance=CONCORDANCE,
        localised=has_map(report),
        others=others(report),
        warnings=warnings(report),
        speed=speed_notes(report),
        costs=cost_tables(report),
        columns=columns(report),
        rows=rows(report),
        marks={name: mark(index) for index, name in enumerate(names)},
        figures=draw(report, result),
        examples=examples(report, result),
        ramp=ramp(),
        manifests=result.candidates,
        stages=STAGES,
        pixel_verdicts=pixel_verdicts(report),
        pixel_facts=[pixel_facts(summary, report) for summary in report.pixels],
        intervals=interval_kinds(report),
        failures=[failure(row) for row in report.failed],
    )
