"""What stands at the head of a report: what its verdict means, and what to beware of."""

from __future__ import annotations

from lpx.bench.parity.parity import VERDICTS, overall
from lpx.bench.report.document.entries import Candidate
from lpx.bench.report.document.report import Report
from lpx.bench.report.pixel_sentences import listed, pixel_verdicts, pixel_warnings
from lpx.bench.report.sentences import auc, no_discrimination, sentence
from lpx.metrics import Verdict

_VERBS: dict[Verdict, str] = {
    "holds": "holds",
    "undecided": "is undecided",
    "uninformative": "cannot be judged",
    "fails": "fails",
}


def headline(report: Report) -> str:
    """Say what the verdict means: the sentence of what decided it, and the number of engines."""
    clauses = []
    for verdict in reversed(VERDICTS):
        names = [line.pipeline for line in pixel_verdicts(report) if line.verdict == verdict]
        if names and VERDICTS.index(verdict) > VERDICTS.index(report.engine_verdict):
            clauses.append(f"{_VERBS[verdict]} on the pixels of {listed(names)}")
    if not clauses:
        return _of_engines(report)
    return (
        f"Parity {', and '.join(clauses)}. On lpx's own pixels it {_VERBS[report.engine_verdict]}: "
        f"{_of_engines(report)}"
    )


def _of_engines(report: Report) -> str:
    candidates, failed = report.candidates, sorted({row.name for row in report.failed})
    lost = ""
    if failed:
        lost = f"{', '.join(failed)} failed. "
    if not candidates:
        return f"{lost}No engine could be measured."
    decisive = _decisive(report)
    verdict, few = decisive.verdict, report.reference.discrimination.few_groups
    if verdict == "uninformative" and len(candidates) > 1:
        return f"{lost}No engine can be judged: {no_discrimination(report)}"
    text = sentence(decisive, report)
    # With few groups the sentence holds for every engine: no share of them is worth a word.
    if len(candidates) == 1 or (verdict == "undecided" and few):
        return lost + text
    count = sum(candidate.verdict == verdict for candidate in candidates)
    share = f"{count} of {len(candidates)} engines"
    if verdict == "holds":
        everyone = f"All {len(candidates)}"
        if len(candidates) == 2:
            everyone = "Both"
        lead = f"{everyone} engines {'that ran ' * bool(lost)}keep the AUC. "
    elif verdict == "fails":
        fail = "fails" if count == 1 else "fail"
        lead = f"{share} {fail}. "
    else:
        lead = f"{report.dataset.faces:,} faces do not decide {share}. "
    if count > 1 and verdict in ("holds", "fails"):
        # The sentence begins with the engine's name.
        text = f"The worst, {decisive.name},{text.removeprefix(decisive.name)}"
    return lost + lead + text


def _decisive(report: Report) -> Candidate:
    """Return the worst of the candidates with the worst verdict."""
    verdict = overall([candidate.verdict for candidate in report.candidates])

    def badness(candidate: Candidate) -> tuple[bool, float]:
        difference = candidate.auc_difference
        end = difference.high if verdict == "fails" else difference.low
        # A dead engine may keep its AUC by chance, and is worse than any loss.
        return not candidate.parity.dead, end

    worst = [candidate for candidate in report.candidates if candidate.verdict == verdict]
    return min(worst, key=badness)


def others(report: Report) -> list[tuple[Verdict, str]]:
    """Return verdict and sentence of the candidates that the headline leaves out."""
    if not report.candidates:
        return []
    decisive = _decisive(report)
    texts = []
    for candidate in report.candidates:
        if candidate is not decisive:
            texts.append((candidate.verdict, sentence(candidate, report)))
    return texts


def warnings(report: Report) -> list[str]:
    """Return all warnings to the reader, those that follow from the numbers first."""
    texts: list[str] = []
    known = report.reference.discrimination
    if known.direction == "real higher":
        texts.append(
            f"Classes look reversed: the reference scores real faces higher than fake ones (AUC "
            f"{auc(report.reference.auc)}, 95 % interval {auc(known.auc.low)} to "
            f"{auc(known.auc.high)}). Differences are counted in its direction. Check the labels "
            "of the set, and which class of the model is fake: `lpx export --fake-class`."
        )
    if known.direction == "none":
        text = no_discrimination(report)
        texts.append(f"{text[0].upper()}{text[1:]} Parity with it says little.")
    for candidate in report.candidates:
        if candidate.parity.dead:
            texts.append(f"{candidate.name} is dead: it gives all faces one score.")
    if report.reference.auc in (0.0, 1.0):
        texts.append(
            "The reference separates these faces perfectly: parity here says nothing about harder "
            "faces."
        )
    texts += pixel_warnings(report)
    texts += report.warnings
    for candidate in report.candidates:
        texts += [f"{candidate.name}: {text}" for text in candidate.engine.warnings]
    # Two engines may give the same warning; the order is kept.
    return list(dict.fromkeys(texts))
