"""How a demo went: in numbers for programs, in a table for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

from tta_daemon.offline.moment import percent
from tta_daemon.offline.scoreboard import Score, Scoreboard


def summarize(board: Scoreboard, told: dict[str, float]) -> dict[str, Any]:
    """Return the demo in numbers; shares are between 0 and 1."""
    total = board.total
    return {
        "produced": len(board.sent),
        "answered": board.answered,
        "dead_lettered": len(board.buried),
        "dead_letter_reasons": board.reasons(),
        "problems": list(board.problems()),
        "accuracy": {
            "source": round(total.source, 4),
            "adapted": round(total.adapted, 4),
            "by_domain": [{"domain": world, **score.jsonable()} for world, score in board.domains().items()],
            "by_stretch": [
                {"domain": stretch.world, "lap": stretch.lap, **score.jsonable()}
                for stretch, score in zip(board.journey, board.scores, strict=True)
            ],
        },
        "daemon_says": {
            ours: told.get(f'tta_accuracy_ratio{{model="{model}",window="all"}}')
            for ours, model in (("source", "source"), ("adapted", "served"))
        },
        "steps_learned": told.get("tta_adaptation_steps_total"),
    }


def report(board: Scoreboard, numbers: dict[str, Any], console: Console) -> None:
    """Print how it went."""
    console.print(result(board))
    fates = (("produced", "produced"), ("answered", "answered"), ("dead-lettered", "dead_lettered"))
    counts = ", ".join(f"{numbers[name]:,} {word}" for word, name in fates)
    verdict = "something is wrong:" if numbers["problems"] else "nothing lost, nothing twice."
    console.print(f"{counts}: {verdict} {numbers['seconds']:.0f} s in all.")
    for problem in numbers["problems"]:
        console.print(problem, style="red", markup=False)


def result(board: Scoreboard) -> Table:
    """Return the table that the demo ends with: how often each model was right in each world."""
    table = Table(title="Digits read correctly", title_justify="left")
    table.add_column("the world")
    for name in ("photos", "frozen model", "adapted", "gain"):
        table.add_column(name, justify="right")
    for world, score in board.domains().items():
        table.add_row(world, *_row(score))
    table.add_section()
    table.add_row("the whole stream", *_row(board.total), style="bold")
    return table


def _row(score: Score) -> tuple[str, ...]:
    gain = f"{100 * (score.adapted - score.source):+.1f}" if score.images else "-"
    return f"{score.images:,}", percent(score.source), percent(score.adapted), gain
