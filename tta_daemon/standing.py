"""How the daemon stands, in plain values: what `/api/status` shows."""

from typing import TYPE_CHECKING

from tta_daemon.watch.guard import Guard

if TYPE_CHECKING:
    from tta_daemon.daemon import Daemon


def standing(daemon: "Daemon") -> dict[str, object]:
    """All there is to say; less of it before the first broker answered."""
    said: dict[str, object] = {
        "model": {"name": daemon.deployed.name, "digest": daemon.deployed.digest[:12]},
        "method": daemon.learner.method,
        "step": daemon.learner.step,
        "config": {"digest": daemon.config.digest, "settings": daemon.settings},
        "reload": daemon.slot.status(),
    }
    if daemon.connected:
        accuracy = daemon.labels.accuracy.recent
        said |= {
            "partitions": sorted(f"{topic}-{number}" for topic, number in daemon.source.assignment()),
            "waiting_images": daemon.batcher.waiting,
            "open_records": daemon.ledger.open_count,
            "learning": {"learned": 0, **daemon.metrics.learning},
            "guard": _guarding(daemon.learner.guard),
            "watch": daemon.watch.status() if daemon.watch is not None else None,
            "accuracy": {"images": accuracy.images, "adapted": accuracy.adapted, "source": accuracy.source,
                         "served": accuracy.served},
        }  # fmt: skip
    return said


def _guarding(guard: Guard) -> dict[str, object]:
    """Whose answers leave, and why."""
    return {"mode": guard.settings.mode, "serve": guard.serve, "vetoed": guard.vetoed, **guard.evidence()}
