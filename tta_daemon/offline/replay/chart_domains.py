"""Error by domain: a bar for each method, hatched and marked where it is worse than the frozen model."""

from collections.abc import Sequence

from tta_daemon.offline.replay.results import Entry
from tta_daemon.offline.replay.scores import Score
from tta_daemon.offline.replay.svg import Frame, percent, steps, tag, text, tip

ROW = 17.0
"""Height of a bar with its air."""


def by_domain(number: int, domain: str, entries: Sequence[Entry]) -> str:
    """Error of every method on one domain, with its interval; the first entry is the frozen model."""
    scores = [entry.domains[domain] for entry in entries]
    ticks = steps(max(e.domains[d].high for e in entries for d in e.domains))
    frame = Frame(340, 26 + ROW * len(entries), (4, 50, 22, 62), (0, ticks[-1]), (len(entries), 0))
    at = frame.x(scores[0].error)
    worse = [entry.method for entry, s in zip(entries, scores, strict=True) if s.against.verdict == "worse"]
    described = f"The frozen model has {percent(scores[0].error)} wrong. " + (
        f"Worse beyond chance: {', '.join(worse)}." if worse else "No method is worse beyond chance."
    )
    axis = (text(percent(t), frame.x(t), frame.bottom + 15, class_="tick", text_anchor="middle") for t in ticks)
    return frame.drawing(
        f"domain-{number}",
        f"Error on {domain}",
        described,
        *axis,
        *(
            _bar(frame, row, entry.method, s, row == 0)
            for row, (entry, s) in enumerate(zip(entries, scores, strict=True))
        ),
        tag("line", x1=at, x2=at, y1=frame.top, y2=frame.bottom, class_="line source thin"),
    )


def _bar(frame: Frame, row: int, method: str, score: Score, frozen: bool) -> str:  # noqa: FBT001
    top, middle = frame.y(row) + 3, frame.y(row) + ROW / 2
    verdict = score.against.verdict
    kind = "source" if frozen else "harm" if verdict == "worse" else "maybe" if verdict == "perhaps worse" else "ours"
    mark = {"worse": " ▲", "perhaps worse": " △"}.get(verdict, "") if not frozen else ""
    low, high = frame.x(score.low), frame.x(score.high)
    words = f"{method}: {percent(score.error)} (95 %: {percent(score.low)} to {percent(score.high)})"
    ends = (tag("line", x1=x, x2=x, y1=middle - 3, y2=middle + 3, class_="whisker") for x in (low, high))
    return tag(
        "g",
        tip(words),
        tag("rect", x=frame.left, y=top, width=frame.x(score.error) - frame.left, height=ROW - 6, class_=f"bar {kind}"),
        tag("line", x1=low, x2=high, y1=middle, y2=middle, class_="whisker"),
        *ends,
        text(method, frame.left - 6, middle + 4, class_="name", text_anchor="end"),
        text(f"{100 * score.error:.1f}{mark}", frame.right + 6, middle + 4, class_=f"value {kind}"),
    )
