"""A replay's results as one HTML page that needs nothing beside itself."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from tta_daemon.offline.replay.chart_calibration import calibration
from tta_daemon.offline.replay.chart_cost import cost
from tta_daemon.offline.replay.chart_course import over_time
from tta_daemon.offline.replay.chart_domains import by_domain
from tta_daemon.offline.replay.page_tables import bins, courses, errors, overview
from tta_daemon.offline.replay.results import Entry, Results
from tta_daemon.offline.replay.scores import BINS
from tta_daemon.offline.replay.svg import percent, tag

MOST_SAID = 5


def page(results: Results) -> str:
    """The page."""
    template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    entries = (results.source, *results.others)
    about = results.about
    return template.substitute(
        title=escape(f"Replay of {about['stream']} through {about['model']}"),
        about=escape(
            f"{about['images']:,} images, {len(results.source.domains)} domains, order {about['order']}, batches of "
            f"{about['batch_size']}, seed {about['seed']}. {about['began']}."
        ),
        verdict=verdict(results),
        says="".join(tag("li", words) for words in says(results)),
        overview=overview(entries),
        strips="".join(_strip(entry, results, number == 0) for number, entry in enumerate(entries)),
        strips_table=courses(entries, results),
        domains="".join(
            figure(escape(domain.replace("_", " ")), by_domain(number, domain, entries))
            for number, domain in enumerate(results.source.domains)
        ),
        domains_table=errors("domain", list(results.source.domains), entries, lambda e: list(e.domains.values())),
        rounds=_rounds(entries),
        calibration="".join(
            figure(f"{escape(e.method)} <small>ECE {percent(e.overall.ece)}</small>", calibration(e, entries[0]))
            for e in entries
        ),
        calibration_table=bins(entries),
        cost=cost(results),
        bins=BINS,
        facts="".join(tag("dt", escape(str(k))) + tag("dd", escape(str(v))) for k, v in about["facts"].items()),
        **_keys(),
    )


def verdict(results: Results) -> str:
    """The replay in two sentences."""
    frozen = results.source.overall
    words = f"The frozen model gets <b>{percent(frozen.error)}</b> wrong. "
    if not results.others:
        return words
    best = results.others[0]
    points = -100 * best.overall.against.difference
    name, error = escape(best.method), percent(best.overall.error)
    if best.overall.against.verdict == "better":
        return words + f"Best is <b>{name}</b> with {error}, {points:.1f} points fewer."
    return words + f"<b>No method makes that better</b> beyond chance; the nearest is {name} with {error}."


def says(results: Results) -> Iterable[str]:
    """What a reader should not miss, a sentence each."""
    cells = [
        (score.against.difference, entry.method, domain)
        for entry in results.others
        for domain, score in entry.domains.items()
        if score.against.verdict == "worse"
    ]
    count = len(results.others) * len(results.source.domains)
    if cells:
        worst = sorted(cells, reverse=True)[:MOST_SAID]
        named = ", ".join(f"{escape(m)} on {escape(d.replace('_', ' '))} (+{100 * x:.1f})" for x, m, d in worst)
        more = "; worst: " if len(cells) > MOST_SAID else ": "
        yield f"Adapting did harm, beyond chance, in {len(cells)} of {count} pairs of method and domain{more}{named}."
    elif count:
        yield f"In none of {count} pairs of method and domain did adapting do harm beyond chance."
    for entry in (results.source, *results.others):
        if entry.rejected:
            reasons = ", ".join(f"{reason} {n}" for reason, n in entry.rejected.items())
            yield f"{escape(entry.method)}: {sum(entry.rejected.values())} images were rejected ({escape(reasons)})."
        if entry.held and entry is not results.source:
            reasons = ", ".join(f"{reason.replace('_', ' ')} {n}" for reason, n in entry.held.items())
            skipped = entry.batches - entry.learned_from
            yield f"{escape(entry.method)} did not learn from {skipped} of {entry.batches} batches: {escape(reasons)}."


def figure(caption: str, drawing: str) -> str:
    """A chart with its caption."""
    return tag("figure", tag("figcaption", caption), drawing)


def _strip(entry: Entry, results: Results, first: bool) -> str:  # noqa: FBT001
    error = tag("small", f"<br>{percent(entry.overall.error)}")
    return figure(escape(entry.method) + error, over_time(entry, results, named=first))


def _rounds(entries: Sequence[Entry]) -> str:
    if len(entries[0].rounds) == 1:
        return ""
    names = [str(n + 1) for n in range(len(entries[0].rounds))]
    rows = errors("round", names, entries, lambda e: e.rounds)
    return f'<h2 id="rounds">Error by round</h2><div class="scroll" tabindex="0">{rows}</div>'


def _keys() -> dict[str, str]:
    def line(kind: str) -> str:
        stroke = tag("line", x1=0, x2=34, y1=6, y2=6, class_=f"line {kind}")
        return tag("svg", stroke, viewBox="0 0 34 12", aria_hidden="true")

    def box(kind: str) -> str:
        return tag(
            "svg", tag("rect", x=1, y=1, width=32, height=10, class_=kind), viewBox="0 0 34 12", aria_hidden="true"
        )

    return {
        "key_ours": line("ours"),
        "key_source": line("source"),
        "key_harm": box("bar harm"),
        "key_bar": box("bar ours"),
        "key_maybe": box("bar maybe"),
    }
