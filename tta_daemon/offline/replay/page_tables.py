"""The numbers behind a replay's charts, as tables of a page."""

from collections.abc import Callable, Sequence
from html import escape

from tta_daemon.offline.replay.results import Entry, Results
from tta_daemon.offline.replay.scores import Score
from tta_daemon.offline.replay.svg import percent, tag

MARKS = {"worse": " ▲", "perhaps worse": " △", "better": "", "alike": ""}
HEADS = ("error", "95 %", "against source", "95 %", "lost", "won", "ECE", "NLL", "Brier", "answer", "learn", "memory",
         "learned from", "rewinds")  # fmt: skip


def overview(entries: Sequence[Entry]) -> str:
    """One row for each method."""
    rows = []
    for entry in entries:
        s, cost = entry.overall, entry.cost
        against = s.against
        frozen = entry is entries[0]
        cells = [
            percent(s.error),
            f"{100 * s.low:.1f} to {100 * s.high:.1f}",
            "" if frozen else f"{100 * against.difference:+.1f}{MARKS[against.verdict]}",
            "" if frozen else f"{100 * against.low:+.1f} to {100 * against.high:+.1f}",
            percent(against.negative_flips),
            percent(against.positive_flips),
            percent(s.ece),
            f"{s.nll:.3f}",
            f"{s.brier:.3f}",
            f"{cost.answer_ms:.2f} ms",
            f"{cost.learn_ms:.2f} ms",
            "" if cost.peak_mib is None else f"{cost.peak_mib:.0f} MiB",
            f"{entry.learned_from} of {entry.batches}",
            str(sum(entry.rewound.values())),
        ]
        classes = ["", "", against.verdict, *[""] * (len(cells) - 3)]
        written = "".join(
            tag("td", cell, class_=kind) if cell else "<td></td>" for cell, kind in zip(cells, classes, strict=True)
        )
        rows.append(
            tag("tr", tag("th", escape(entry.method), scope="row") + written, class_="frozen" if frozen else "")
        )
    return table("", ("method", *HEADS), rows)


def table(caption: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    """A table of rows that are markup already."""
    head = tag("tr", *(tag("th", escape(h), scope="col") for h in heads))
    named = tag("caption", caption) if caption else ""
    return tag("table", named, tag("thead", head), tag("tbody", *rows))


def errors(
    what: str, names: Sequence[str], entries: Sequence[Entry], scores: Callable[[Entry], Sequence[Score]]
) -> str:
    """Errors in percent, a column for each method."""
    rows = []
    for number, name in enumerate(names):
        found = [scores(entry)[number] for entry in entries]
        rows.append(tag("tr", tag("th", escape(name), scope="row"), *map(_cell, found)))
    return table("Error in percent", (what, *(e.method for e in entries)), rows)


def _cell(score: Score) -> str:
    return tag("td", f"{100 * score.error:.1f}{MARKS[score.against.verdict]}", class_=score.against.verdict)


def courses(entries: Sequence[Entry], results: Results) -> str:
    """Errors along the stream."""
    rows = []
    for n in range(len(entries[0].course)):
        first = n * results.window + 1
        cells = (tag("td", f"{100 * e.course[n]:.1f}") for e in entries)
        rows.append(tag("tr", tag("th", f"{first:,}", scope="row"), *cells))
    return table("Error in percent, by window", ("from image", *(e.method for e in entries)), rows)


def bins(entries: Sequence[Entry]) -> str:
    """Answers by their confidence."""
    rows = [
        tag(
            "tr",
            tag("th", escape(e.method), scope="row"),
            tag("td", f"{b.images:,}"),
            tag("td", percent(b.confidence)),
            tag("td", percent(b.accuracy)),
        )
        for e in entries
        for b in e.reliability
    ]
    return table("", ("method", "answers", "confidence", "accuracy"), rows)
