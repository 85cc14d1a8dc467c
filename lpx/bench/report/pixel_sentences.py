"""Sentences of a report about faces that are resized as other pipelines do."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lpx.bench.parity.parity import VERDICTS
from lpx.bench.report.document.entries import Candidate, PixelParity, PixelSummary
from lpx.bench.report.document.report import Report
from lpx.bench.report.sentences import bracketed, judged, signed, significant
from lpx.metrics import Verdict


@dataclass(frozen=True)
class PixelLine:
    """The verdict on the pixels of a pipeline.

    Attributes:
        pipeline: Name of the pipeline.
        verdict: The worst verdict of the engines on its pixels.
        text: The sentence of the engine that decided it.
    """

    pipeline: str
    verdict: Verdict
    text: str


def pixel_verdicts(report: Report) -> list[PixelLine]:
    """Return the verdict on each pipeline whose pixels were scored."""
    lines = []
    for summary in report.pixels:
        rows = []
        for candidate in report.candidates:
            rows += [(candidate, p) for p in candidate.pixels if p.pipeline == summary.pipeline]
        if rows:
            candidate, worst = max(rows, key=_pixel_badness)
            text = pixel_sentence(candidate, worst, report)
            lines.append(PixelLine(summary.pipeline, worst.verdict, text))
    return lines


def _pixel_badness(row: tuple[Candidate, PixelParity]) -> tuple[int, bool, float]:
    parity = row[1].against_torch
    lost = math.inf if parity is None else -parity.auc_difference.low
    return VERDICTS.index(row[1].verdict), parity is None or parity.dead, lost


def pixel_sentence(candidate: Candidate, row: PixelParity, report: Report) -> str:
    """Say what an engine's verdict on the pixels of a pipeline means, with its numbers.

    The sentence does not name the pipeline: it stands behind its name.
    """
    name = f"{candidate.name} on these pixels"
    if row.against_torch is None or row.against_engine is None:
        return f"{name} was not scored: {row.reason}."
    there = replace(
        candidate,
        name=name,
        parity=row.against_torch,
        faces_needed=row.faces_needed,
        stages=(),
        breaks_at=None,
    )
    cost = row.against_engine.auc_difference
    return (
        f"{judged(there, report)} The pixels alone change its AUC by "
        f"{signed(cost.estimate, report.margin)} {bracketed(cost, report.margin)}."
    )


def pixel_facts(summary: PixelSummary, report: Report) -> str:
    """Say how far the pixels of a pipeline are from lpx's own."""
    size, side = report.model.input_size, summary.median_side_px
    changed = f"{summary.faces_changed:,} of {report.dataset.faces:,} faces differ"
    if summary.faces_changed:
        changed += f", by {significant(summary.mean_difference)} of 255 on average"
    if not summary.faces_resized:
        crops = f"all crops are {size} px already"
    elif side > size:
        crops = f"crops of {side:g} px (median) are shrunk {significant(side / size)} times"
    else:
        crops = f"crops of {side:g} px (median) become {size} px"
    return f"{summary.pipeline}: {summary.text}. {changed}; {crops}."


def pixel_warnings(report: Report) -> list[str]:
    """Return warnings about pipelines that changed nothing, or that cost an engine its parity."""
    texts = []
    size = report.model.input_size
    for summary in report.pixels:
        name = summary.pipeline
        if not summary.faces_changed:
            texts.append(
                f"The pixels of {name} are lpx's own on all of these faces, of which "
                f"{summary.faces_shrunk:,} are larger than {size} px: its figures say nothing "
                "about larger crops."
            )
        elif not summary.faces_resized:
            texts.append(
                f"All crops are {size} px already: the figures of {name} say nothing about its "
                "resize, only about its colours and its rounding of sizes."
            )
    for summary in report.pixels:
        lost = []
        for candidate in report.candidates:
            for row in candidate.pixels:
                fails = row.verdict == "fails" != candidate.verdict
                if fails and row.pipeline == summary.pipeline:
                    lost.append(candidate.name)
        if lost:
            texts.append(
                f"Parity of {listed(lost)} is lost by the pixels of {summary.pipeline}. Resize "
                "faces as lpx does before such a pipeline, or measure another setting of it with "
                "`lpx bench --pixels`."
            )
    return texts


def listed(names: list[str]) -> str:
    """Write names as a list in a sentence."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
