"""A replay's results as tables for a terminal."""

from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tta_daemon.offline.replay.results import Entry, Results
from tta_daemon.offline.replay.scores import Score
from tta_daemon.watch.guard import Serve

MARKS = {"worse": " ▲", "perhaps worse": " △", "better": "", "alike": ""}
STYLES = {"worse": "bold red", "perhaps worse": "yellow", "better": "green", "alike": ""}
LEGEND = (
    "Against: error less the frozen model's, in points; lost: % that only the frozen model has right; won: that only "
    "the method has. Milliseconds are per image.\n"
    "▲ worse than the frozen model, and not by chance (95 %, same images); △ worse, but chance could explain it.\n"
    "± is half the width of the error's 95 % interval."
)
DOMAIN_WIDTH, METHOD_WIDTH = 22, 9


def tables(results: Results, console: Console) -> RenderableType:
    """All tables, as wide as the console."""
    entries = (results.source, *results.others)
    parts: list[RenderableType] = [overview(entries)]
    each = max(1, (console.width - DOMAIN_WIDTH) // METHOD_WIDTH)
    if len(results.source.domains) > 1:
        parts += [by_domain(entries[at : at + each]) for at in range(0, len(entries), each)]
    if len(results.source.rounds) > 1:
        parts += [by_round(entries[at : at + each]) for at in range(0, len(entries), each)]
    parts.append(costs(entries))
    return Group(*parts, Text(LEGEND, style="dim"), *map(Text, remarks(entries)))


def overview(entries: Sequence[Entry]) -> Table:
    """How right each method is: one line for each."""
    table = _table("All images", "method", ("error %", "±", "against", "lost", "won", "ECE", "NLL", "Brier"))
    for entry in entries:
        s = entry.overall
        rates = (s.against.negative_flips, s.against.positive_flips, s.ece)
        table.add_row(
            entry.method,
            percent(s.error),
            percent((s.high - s.low) / 2),
            compared(s) if entry is not entries[0] else "",
            *map(percent, rates),
            f"{s.nll:.3f}",
            f"{s.brier:.3f}",
        )
    return table


def costs(entries: Sequence[Entry]) -> Table:
    """What each method takes: one line for each."""
    table = _table("Cost", "method", ("answer ms", "learn ms", "peak MiB", "learned from", "rewinds"))
    for entry in entries:
        cost = entry.cost
        table.add_row(
            entry.method,
            f"{cost.answer_ms:.2f}",
            f"{cost.learn_ms:.2f}",
            "" if cost.peak_mib is None else f"{cost.peak_mib:.0f}",
            f"{entry.learned_from} of {entry.batches}",
            str(sum(entry.rewound.values())),
        )
    return table


def by_domain(entries: Sequence[Entry]) -> Table:
    """Error in percent: a line for each domain, a column for each method."""
    names = list(entries[0].domains)
    return _errors("domain", names, entries, lambda entry: [entry.domains[name] for name in names])


def by_round(entries: Sequence[Entry]) -> Table:
    """Error in percent, round after round."""
    names = [str(number + 1) for number in range(len(entries[0].rounds))]
    return _errors("round", names, entries, lambda entry: entry.rounds)


def remarks(entries: Sequence[Entry]) -> Iterator[str]:
    """What else a reader must know, a sentence each."""
    for entry in entries:
        if entry.rejected:
            reasons = ", ".join(f"{reason} {count}" for reason, count in entry.rejected.items())
            yield f"{entry.method}: {sum(entry.rejected.values())} images were rejected and have no score: {reasons}."
        if set(entry.served) - {Serve.ADAPTED}:
            total = sum(entry.served.values())
            shares = ", ".join(f"{who} {100 * entry.served.get(who, 0) / total:.0f} %" for who in Serve)
            yield f"{entry.method}: answered by {shares}."
        if entry.held:
            reasons = ", ".join(f"{reason} {count}" for reason, count in entry.held.items())
            yield f"{entry.method}: {entry.batches - entry.learned_from} batches were not learned from: {reasons}."


def percent(rate: float) -> str:
    """A rate in percent, one digit."""
    return f"{100 * rate:.1f}"


def compared(score: Score) -> Text:
    """The difference to the source, in points, marked where it is harm."""
    verdict = score.against.verdict
    return Text(f"{100 * score.against.difference:+.1f}{MARKS[verdict]}", style=STYLES[verdict])


def _errors(
    what: str, names: Sequence[str], entries: Sequence[Entry], scores: Callable[[Entry], Sequence[Score]]
) -> Table:
    table = _table(f"Error % by {what}", what, [entry.method for entry in entries])
    columns = [scores(entry) for entry in entries]
    for number, name in enumerate(names):
        cells = (column[number] for column in columns)
        table.add_row(name, *(Text(percent(c.error) + MARKS[c.against.verdict], style=_style(c)) for c in cells))
    return table


def _table(title: str, first: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(first)
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _style(score: Score) -> str:
    return STYLES[score.against.verdict] if score.against.difference > 0 else ""
