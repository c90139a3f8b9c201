"""The command line. Heavy modules are imported by the commands that need them, so that help comes at once."""

import json
import os
import signal
import sys
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tta_daemon import __version__
from tta_daemon.bell import Bell
from tta_daemon.control import config_cli
from tta_daemon.control.asking import NEARBY, NoAnswer, ask, good, lines
from tta_daemon.control.config_cli import CONFIG_ERROR, File, loaded, refusals
from tta_daemon.errors import ConfigError, TtaError
from tta_daemon.offline.letters_cli import dead_letters
from tta_daemon.offline.replay.cli import replay

if TYPE_CHECKING:
    from tta_daemon.daemon import Daemon

RUNTIME_ERROR, SECOND_INTERRUPT = 1, 130

RELOAD_S = 150.0
"""More than a daemon takes to answer a request to reload: a minute to prepare, another until the loop comes round."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ended as asked, 1 failed, 2 wrong usage, 78 wrong configuration.",
)
app.add_typer(config_cli.app, name="config")
app.command()(replay)
app.command("dead-letters")(dead_letters)

Url = Annotated[str, typer.Option("--url", envvar="TTA_URL", help="Where the daemon listens.")]


def main() -> None:
    """The console script."""
    app()


def _say_version(asked: bool) -> None:  # noqa: FBT001 - typer hands it over so
    if asked:
        parts = [
            f"python {sys.version.split()[0]}",
            *(f"{name} {_version(name)}" for name in ("torch", "kafka-python")),
        ]
        typer.echo(f"tta-daemon {__version__} ({', '.join(parts)})")
        raise typer.Exit


@app.callback()
def options(
    *,
    _: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Test-time adaptation of image classifiers on a Kafka stream.

    Reads images from a topic, answers each with your model, and lets the model adapt, without labels, to what it sees.

    Try it: tta-daemon demo
    """


@app.command()
def run(
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, a TOML file.")],
    *,
    fresh_state: Annotated[
        bool, typer.Option("--fresh-state", help="Set saved states aside, and begin with the model as deployed.")
    ] = False,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C, which drain it; a second one ends it at once.

    Settings may come from the environment instead: TTA_KAFKA__INPUT_TOPIC stands in for kafka.input_topic.

    Example: tta-daemon run --config config.toml
    """
    stop = _Stop()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # whoever watches the file looks at it when it begins
    with refusals():
        settings = loaded(config)
        from tta_daemon.assemble import assemble  # noqa: PLC0415 - torch comes with it
        from tta_daemon.control import logs  # noqa: PLC0415

        logs.configure(settings.log)
        with assemble(settings, config, fresh_state=fresh_state) as (daemon, reloader):
            stop.daemon = daemon
            signal.signal(signal.SIGHUP, lambda *_: reloader.ask())
            _run(daemon)


@app.command()
def check(
    config: File,
    *,
    environment: Annotated[
        bool, typer.Option("--environment/--no-environment", help="Also try the model, its files and the brokers.")
    ] = True,
) -> None:
    """Check a configuration and print everything that is wrong with it, each with its remedy.

    Exits with 0 where all is well, else with 78. What is allowed and seldom meant, and how many images a second
    anything is learned from, is said besides.

    Example: tta-daemon check config.toml

    Example: tta-daemon check --no-environment config.toml
    """
    with refusals():
        settings = loaded(config)
        if environment:
            from tta_daemon.control.faults import ConfigRefused  # noqa: PLC0415
            from tta_daemon.control.preflight import faults  # noqa: PLC0415 - torch comes with it

            if found := list(faults(settings)):
                raise ConfigRefused(found)
    from tta_daemon.control.doubts import doubts  # noqa: PLC0415 - torch comes with it

    tried = "the settings, the model and the brokers" if environment else "the settings"
    typer.echo(f"{config}: all is well with {tried} (digest {settings.digest})")
    for doubt in doubts(settings):
        typer.echo(f"note: {doubt}")


@app.command()
def demo(
    *,
    summary: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
    chart: Annotated[Path | None, typer.Option("--chart", metavar="FILE", help="Draw the stream here, PNG.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A shorter stream.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the stream's order and its noise.")] = 0,
) -> None:
    """Watch the daemon adapt to real images through a real broker, on this machine, in two minutes.

    Example: tta-daemon demo --chart demo.png
    """
    from tta_daemon.offline.demo import run as run_demo  # noqa: PLC0415 - torch comes with it

    with refusals():
        code = run_demo(summary=summary, chart=chart, quick=quick, seed=seed)
    raise typer.Exit(code)


@app.command()
def produce(
    bootstrap: Annotated[str, typer.Option("--bootstrap", metavar="HOST:PORT", help="A broker.")] = "localhost:9092",
    *,
    per_second: Annotated[float, typer.Option("--per-second", min=0.1, max=10_000, help="Images a second.")] = 50.0,
    laps: Annotated[int, typer.Option("--laps", min=0, help="Journeys through the worlds; 0: until stopped.")] = 0,
) -> None:
    """Send the demo's images and labels to topics images and labels of any broker, until stopped.

    It makes the topics images, answers, labels and images-dlq where they are missing.

    Example: tta-daemon produce --bootstrap localhost:19092 --per-second 50
    """
    from tta_daemon.offline import produce as producing  # noqa: PLC0415 - heavy modules come with it

    stopping = Bell()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        sent = producing.run(bootstrap, per_second, laps, stopping)
    except TtaError as error:
        _fail(str(error))
    typer.echo(f"{sent} records were sent to {bootstrap}")


@app.command()
def prepare(  # noqa: PLR0913 - what a person may say
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, a TOML file.")],
    source: Annotated[Path, typer.Option(metavar="DATA", help="Source images: .npz, or a folder CLASS/PICTURE.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The prior to write.")] = Path(
        "prior.safetensors"
    ),
    *,
    labels: Annotated[bool, typer.Option("--labels/--no-labels", help="Use the labels that come with them.")] = True,
    held_out: Annotated[bool, typer.Option("--held-out", help="The model was not trained on these images.")] = False,
    window: Annotated[int, typer.Option(min=1, help="Images over which drift and accuracy are watched.")] = 1024,
    methods: Annotated[str, typer.Option(metavar="NAMES", help="Whose priors to make, with commas; all: all.")] = "",
) -> None:
    """Look at the source domain once, and write down all that the daemon needs to know of it.

    Images that the model was never trained on are best; say so with --held-out. An interrupted run goes on where it
    was. The same data, model and settings give the same bytes.

    Example: tta-daemon prepare --config config.toml --source validation.npz --held-out --output prior.safetensors
    """
    with refusals():
        settings = loaded(config)
        from tta_daemon.offline import prepare as preparing  # noqa: PLC0415 - torch comes with it

        wanted = preparing.named(methods)
        known = preparing.run(settings, source, output, labels=labels, held_out=held_out, window=window, methods=wanted)
    about = known.manifest
    typer.echo(f"{output}: what {about.images} images say of {about.classes} classes, and {len(known.priors)} priors")


@app.command()
def export(  # noqa: PLR0913 - what a person may say
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, a TOML file.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")] = Path("model.onnx"),
    *,
    adapter: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A published .safetensors: the model as it was adapted.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A saved state of checkpoint.folder: the same, from there.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="With --state: images for the norms' statistics, as prepare takes them."),
    ] = None,
    is_open: Annotated[
        bool, typer.Option("--open", help="What the method moves may be given at each call: by published adapters.")
    ] = False,
) -> None:
    """Write the model as an ONNX file: as deployed, as adapted, or open for the adapters that a daemon publishes.

    Its input is images, float32, N x 3 x H x W in [0, 1]: normalization is inside. It gives logits, and features where
    the network has a linear head. It is compared with torch before it is written.

    Example: tta-daemon export --config config.toml --open --out model.onnx

    Example: tta-daemon export --config config.toml --adapter published/adapter.7.safetensors --out adapted.onnx
    """
    with refusals():
        settings = loaded(config)
        if state is not None and adapter is not None:
            raise ConfigError("--state", "--adapter is given too", "give one of them")
        try:
            from tta_daemon.offline import export as exporting  # noqa: PLC0415 - torch and ONNX Runtime come with it
        except ImportError as fault:
            raise ConfigError("export", f"{fault.name} is missing", "pip install 'tta-daemon[onnx]'") from fault
        done = exporting.run(settings, out, exporting.Asked(state, adapter, images, is_open))
    moving = f", {done.moving} tensors may be given" if is_open else ""
    typer.echo(f"{out}: {done.size_bytes} bytes, {done.words}{moving}")


@app.command()
def healthcheck(url: Url = NEARBY) -> None:
    """Ask a running daemon whether its loop turns; for containers without curl. Exits with 0 or 1.

    Example: HEALTHCHECK CMD ["tta-daemon", "healthcheck"]
    """
    code, text = _asked(url, "/-/healthy")
    typer.echo(text.strip())
    raise typer.Exit(0 if good(code) else RUNTIME_ERROR)


@app.command()
def status(
    url: Url = NEARBY,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Ask a running daemon what it is doing.

    Example: tta-daemon status

    Example: tta-daemon status --json --url http://10.0.0.7:9464
    """
    code, text = _asked(url, "/api/status")
    if not good(code):
        _fail(f"{url} answered with {code}: {text.strip()[:200]}")
    typer.echo(text if as_json else "\n".join(lines(json.loads(text))))


@app.command()
def reload(
    url: Url = NEARBY,
    *,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="Holds the daemon's http.token. Else: TTA_HTTP__TOKEN."),
    ] = None,
) -> None:
    """Have a running daemon read its configuration again, and say what became of it.

    It does so by itself when the file changes, and on SIGHUP; this one waits for the verdict. It needs
    http.lifecycle = true. Exits with 0 where the file is in force, with 78 where it was refused.

    Example: tta-daemon reload --token-file /run/secrets/tta-token
    """
    token = _secret(token_file) if token_file else os.environ.get("TTA_HTTP__TOKEN", "")
    code, text = _asked(url, "/-/reload", method="POST", token=token, patience_s=RELOAD_S)
    if code == HTTPStatus.CONFLICT:
        typer.echo(text.strip(), err=True)
        raise typer.Exit(CONFIG_ERROR)
    if code not in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
        _fail(f"{url} answered with {code}: {text.strip()[:200]}")
    typer.echo(text.strip())


class _Stop:
    """What signals do: the first one drains the daemon, or ends what is not one yet; the second ends everything."""

    def __init__(self) -> None:
        self.daemon: Daemon | None = None
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            os._exit(SECOND_INTERRUPT)
        self._asked = True
        if self.daemon is None:
            raise SystemExit(0)
        self.daemon.stop()


def _run(daemon: "Daemon") -> None:
    import structlog  # noqa: PLC0415

    log = structlog.get_logger("tta_daemon")
    try:
        daemon.run()
    except ConfigError:
        raise
    except TtaError as error:
        log.error("the daemon failed", error=f"{type(error).__name__}: {error}")  # noqa: TRY400 - the words say it all
        raise typer.Exit(RUNTIME_ERROR) from error
    except Exception as error:
        log.exception("the daemon failed")
        raise typer.Exit(RUNTIME_ERROR) from error


def _asked(url: str, path: str, **more: Any) -> tuple[int, str]:  # noqa: ANN401 - see `ask`
    try:
        return ask(url, path, **more)
    except NoAnswer as error:
        _fail(str(error))


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"--token-file: cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}")


def _fail(words: str) -> NoReturn:
    typer.echo(words, err=True)
    raise typer.Exit(RUNTIME_ERROR)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
