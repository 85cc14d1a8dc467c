"""The report of a bench: a typed object, written as report.json and read back from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lpx.arguments import as_path
from lpx.bench.parity.parity import overall
from lpx.bench.parity.score import Failure
from lpx.bench.performance.trtexec_metrics import TrtexecRow
from lpx.bench.report.document.entries import (
    Candidate,
    DatasetInfo,
    Entry,
    Environment,
    NotRun,
    PixelSummary,
    Reference,
)
from lpx.bench.report.document.from_json import (
    candidates_of,
    dataset_of,
    read_fields,
    reference_of,
)
from lpx.bench.report.document.to_json import (
    candidate_values,
    conditions_values,
    dataset_values,
    reference_values,
)
from lpx.card import ModelCard, card_from_dict
from lpx.errors import LpxError
from lpx.metrics import Verdict
from lpx.schema import SchemaError
from lpx.workspace import read_json

SCHEMA = "lpx-report/3"
REMAKE = "lpx bench --dataset NAME"


@dataclass(frozen=True)
class Report:
    """The report of a bench.

    Attributes:
        verdict: The worst verdict of the candidates, on the pixels of pipelines too; no better
            than "undecided" if an engine failed.
        margin: AUC that a candidate may lose.
        dataset: Faces that were scored.
        model: Model card.
        reference: The PyTorch checkpoint.
        candidates: Engines that scored every face.
        failed: Engines that failed.
        not_run: Engines that do not run on this machine.
        trtexec: Times that trtexec measured, from files.
        warnings: Warnings to the reader.
        environment: Machine, versions and conditions.
        pixels: Pipelines whose pixels were scored.
        json_file: report.json, if the report was written or read; not part of `to_dict()`.
    """

    verdict: Verdict
    margin: float
    dataset: DatasetInfo
    model: ModelCard
    reference: Reference
    candidates: tuple[Candidate, ...]
    failed: tuple[Failure, ...]
    not_run: tuple[NotRun, ...]
    trtexec: tuple[TrtexecRow, ...]
    warnings: tuple[str, ...]
    environment: Environment
    pixels: tuple[PixelSummary, ...] = ()
    json_file: Path | None = field(default=None, compare=False)

    @property
    def engine_verdict(self) -> Verdict:
        """The verdict on lpx's own pixels alone."""
        unseen: list[Verdict] = ["undecided"] if self.failed else []
        return overall([candidate.verdict for candidate in self.candidates] + unseen)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The reference, and then the candidates."""
        return (self.reference, *self.candidates)

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes at which latency was measured, ascending; empty if it was not."""
        sizes: set[int] = set()
        for entry in self.entries:
            sizes.update(row.batch for row in entry.costs.latency_by_batch)
        return tuple(sorted(sizes))

    @property
    def json_path(self) -> Path:
        """Path of report.json.

        Raises:
            LpxError: The report was neither written nor read.
        """
        if self.json_file is None:
            raise LpxError("the report is not in a file", "", "write `to_dict()` as JSON")
        return self.json_file

    @property
    def html_path(self) -> Path:
        """Path of report.html, beside report.json. Raises as `json_path`."""
        return self.json_path.with_suffix(".html")

    @property
    def markdown_path(self) -> Path:
        """Path of report.md, beside report.json. Raises as `json_path`."""
        return self.json_path.with_suffix(".md")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values: the content of report.json."""
        dataset, environment = self.dataset, self.environment
        values = {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "margin": self.margin,
            "faces": dataset.faces,
            "real": dataset.real,
            "fake": dataset.fake,
            "dataset": dataset_values(dataset),
            "threshold": self.model.threshold,
            "threshold_source": self.model.threshold_source,
            "reference": reference_values(self.reference),
            "candidates": [candidate_values(candidate) for candidate in self.candidates],
            "failed": [asdict(failure) for failure in self.failed],
            "not_run": [asdict(engine) for engine in self.not_run],
            "model": self.model.to_dict(),
            "memory": environment.memory and asdict(environment.memory),
            "environment": {
                "machine": environment.machine,
                "versions": environment.versions,
            },
            "conditions": conditions_values(environment.conditions),
            "trtexec": [asdict(row) for row in self.trtexec],
            "pixels": [asdict(summary) for summary in self.pixels],
            "warnings": self.warnings,
        }
        # Through JSON, so that tuples become lists: equal to what a reader of the file gets.
        plain: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        """Return a report from the content of report.json.

        Args:
            values: Plain values, as `to_dict` returns them.

        Raises:
            LpxError: They are not a report, of another version of lpx, or damaged (code "damaged").
        """
        return _from_values(values, "the report")


def read_report(path: str | Path) -> Report:
    """Read a report.

    Args:
        path: A report.json, or the workspace that contains it.

    Raises:
        LpxError: It cannot be read, is not a report, is one of another version of lpx (code
            "unsupported"), or is damaged (code "damaged").
    """
    file = as_path("path", path)
    if file.is_dir():
        file /= "report.json"
    return _from_values(read_json(file, REMAKE), str(file), file)


def _from_values(values: dict[str, Any], source: str, file: Path | None = None) -> Report:
    _check_schema(values.get("schema"), source)
    try:
        fields = read_fields(values)
        results, surroundings = fields.results, fields.surroundings
        environment = Environment(
            surroundings.environment.machine,
            surroundings.environment.versions,
            surroundings.memory,
            surroundings.conditions,
        )
        return Report(
            verdict=results.verdict,
            margin=results.margin,
            dataset=dataset_of(fields),
            model=card_from_dict(fields.scored.model, source),
            reference=reference_of(fields),
            candidates=candidates_of(fields),
            failed=results.failed,
            not_run=results.not_run,
            trtexec=results.trtexec,
            warnings=results.warnings,
            environment=environment,
            pixels=results.pixels,
            json_file=file,
        )
    except SchemaError as error:
        raise LpxError(
            f"{source} is damaged or was edited",
            str(error),
            f"make it again with `{REMAKE}`",
            code="damaged",
        ) from error


def _check_schema(schema: object, source: str) -> None:
    if schema == SCHEMA:
        return
    if isinstance(schema, str) and schema.startswith("lpx-report/"):
        raise LpxError(
            f"{source} is a report of another version, {schema}",
            f"this lpx reads {SCHEMA}",
            f"make it again with this version: `{REMAKE}`",
            code="unsupported",
        )
    raise LpxError(
        f"{source} is not a report of lpx bench",
        f"a report names its schema, {SCHEMA}",
        f"make one with `{REMAKE}`",
    )
