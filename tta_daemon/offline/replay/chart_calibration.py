"""How sure the answers are, and how often they are right."""

from tta_daemon.offline.replay.results import Entry
from tta_daemon.offline.replay.scores import Bin
from tta_daemon.offline.replay.svg import Frame, percent, polyline, tag, text, tip


def calibration(entry: Entry, source: Entry) -> str:
    """How often the answers of each confidence are right."""
    frame = Frame(252, 240, (8, 20, 30, 44), (0, 1), (0, 1))
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    described = (
        f"Answers are {percent(entry.overall.confidence)} sure on average and {percent(1 - entry.overall.error)} "
        f"right; expected calibration error {percent(entry.overall.ece)}, the frozen model's "
        f"{percent(source.overall.ece)}."
    )
    answers = sum(b.images for b in entry.reliability)
    labels = (text(percent(t), frame.x(t), frame.bottom + 15, class_="tick", text_anchor="middle") for t in ticks)
    return frame.drawing(
        f"sure-{entry.method}",
        f"Confidence and accuracy of {entry.method}",
        described,
        frame.rows(ticks, [percent(t) for t in ticks]),
        *labels,
        tag("line", x1=frame.x(0), y1=frame.y(0), x2=frame.x(1), y2=frame.y(1), class_="line ideal"),
        *(_share(frame, b, answers) for b in entry.reliability),
        polyline(((frame.x(b.confidence), frame.y(b.accuracy)) for b in source.reliability), class_="line source"),
        polyline(((frame.x(b.confidence), frame.y(b.accuracy)) for b in entry.reliability), class_="line ours"),
        *(_dot(frame, b) for b in entry.reliability),
    )


def _share(frame: Frame, inside: Bin, answers: int) -> str:
    """A bar from below: the share of all answers that is of this confidence."""
    share = inside.images / answers
    height = share * (frame.bottom - frame.top)
    words = f"{inside.images} answers, {percent(inside.confidence)} sure, {percent(inside.accuracy)} right"
    return tag(
        "rect",
        tip(words),
        x=frame.x(inside.confidence) - 5,
        y=frame.bottom - height,
        width=10,
        height=height,
        class_="share",
    )


def _dot(frame: Frame, inside: Bin) -> str:
    return tag("circle", cx=frame.x(inside.confidence), cy=frame.y(inside.accuracy), r=3, class_="dot")
