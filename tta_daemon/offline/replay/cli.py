"""The replay command's words. What it does is imported when it is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from tta_daemon.control.config_cli import refusals

RUNTIME_ERROR = 1


def replay(  # noqa: PLR0913 - one parameter for each option
    stream: Annotated[Path, typer.Argument(metavar="STREAM", help="An .npz file, or a folder class/name.jpg.")],
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The daemon's configuration.")],
    *,
    method: Annotated[str, typer.Option("--method", "-m", help="Methods, as in tent,eata; all; or the file's.")] = "",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, as in batch.size=10 or tent.lr=0.01; repeatable."),
    ] = None,
    order: Annotated[
        str,
        typer.Option(help="recorded, continual, gradual, mixed, recurring:N, correlated:C, bursts:N; join with +."),
    ] = "continual",
    corrupt: Annotated[
        str, typer.Option(metavar="KINDS", help="Corrupt clean images: all, or some, as in clean,fog,frost.")
    ] = "",
    severity: Annotated[str, typer.Option(help="How much: 1 to 5, as in 5 or 1-5.")] = "5",
    limit: Annotated[int, typer.Option(min=0, help="At most so many images a domain; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the order, of what is drawn, and of the noise.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write an HTML report here.")] = None,
) -> None:
    """Send labeled images through the daemon, in memory, and see what each method would do to them.

    STREAM holds images (uint8, N x H x W x 3) and labels, and perhaps a domain, a severity and a stream for each image.

    Example: tta-daemon replay stream.npz --config config.toml --method tent,eata,rotta --report report.html

    Example: tta-daemon replay photos/ --config config.toml --corrupt all --order recurring:5 --set batch.size=10
    """
    with refusals():
        from tta_daemon.errors import ConfigError, TtaError  # noqa: PLC0415
        from tta_daemon.offline.replay.command import Request, run_request  # noqa: PLC0415 - torch comes with it

        asked = Request(stream, config, method, setting or (), order, corrupt, severity, limit, seed, json, report)
        try:
            run_request(asked)
        except ConfigError:
            raise
        except TtaError as error:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
            raise typer.Exit(RUNTIME_ERROR) from error
