"""What the loop is told to do from outside, done between two batches: go by a new configuration, run errands."""

from typing import TYPE_CHECKING

import structlog

from tta_daemon.control.errands import Done, Errand
from tta_daemon.control.slot import Prepared, Result
from tta_daemon.control.web.board import Kind
from tta_daemon.errors import DeliveryError
from tta_daemon.watch.metrics import Restore

if TYPE_CHECKING:
    from tta_daemon.daemon import Daemon

log = structlog.get_logger(__name__)


class Orders:
    """Carries out for the loop, and on its thread, what the slot and the errands hold."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon

    def take_over(self, *, midway: bool = False) -> None:
        """Go on by a new configuration, if one is ready, whatever becomes of the records that wait.

        Midway through the batches of a turn only by one that lets them stay as they were decoded.
        """
        daemon = self._daemon
        ready = daemon.slot.take(with_decoder=not midway)
        if ready is None:
            return
        try:
            if ready.decoder is not None:
                daemon.clear()  # what waits is answered by the model that it was decoded for
        finally:
            self._go_by(ready)

    def _go_by(self, ready: Prepared) -> None:
        """Put what was prepared in the place of the old. Builds nothing and cannot fail; learned weights stay."""
        daemon = self._daemon
        if ready.decoder is not None:
            daemon.decoder.close()
            daemon.decoder = ready.decoder
        config = daemon.config = ready.config
        daemon.settings = config.masked()
        if ready.deployed is not None:
            daemon.deployed = ready.deployed
        daemon.learner.take(
            daemon.deployed, config.adapt, config.watch.sample, config.guard, ready.adapter, ready.deputy
        )
        daemon.scribe.every_s = config.checkpoint.every_s
        if daemon.publisher is not None:
            daemon.publisher.every_s = config.publish.every_s
        daemon.streams.tune(config.streams)
        if ready.adapter is not None:
            daemon.streams.rebuilt()
            daemon.departed(everyone=True)
            daemon.settle_soon()  # what is saved must not be another method's for long
        daemon.batcher.size, daemon.batcher.patience_s = config.batch.size, config.batch.patience_s
        daemon.reject_ratio.tune(config.limits.reject_ratio, config.limits.reject_window)
        if daemon.connected:
            daemon.labels.tune(config.watch, daemon.deployed.labels)
        daemon.taken(config)
        daemon.metrics.model(daemon.deployed.name, daemon.deployed.digest, config.adapt.method, config.model.device)
        daemon.metrics.runtimes(daemon.learner.providers)
        daemon.metrics.configured(config.digest)
        daemon.metrics.reloaded(Result.APPLIED, in_force=daemon.slot.taken().result is Result.APPLIED)
        changes = {change.path: f"{change.old} -> {change.new}" for change in ready.changes}
        log.info("configuration taken", digest=config.digest, **changes)
        daemon.board.happened(Kind.RELOAD_TAKEN, ", ".join(f"{path}: {change}" for path, change in changes.items()))

    def run_errands(self) -> None:
        """Do what was asked for from outside."""
        daemon = self._daemon
        for errand, asked in daemon.errands.take().items():
            done = self.reset() if errand is Errand.RESET else self.save()
            log.info("errand", errand=errand.value, done=done.done, words=done.words)
            if done.done:
                daemon.board.happened(Kind.RESET if errand is Errand.RESET else Kind.SAVED, done.words)
            asked.set_result(done)

    def reset(self) -> Done:
        """Forget what was learned: the deployed model answers, and learning begins anew."""
        daemon = self._daemon
        steps = daemon.learner.step
        daemon.streams.forget()
        daemon.departed(everyone=True)
        daemon.metrics.restored(Restore.REQUESTED)
        return Done(done=True, words=f"{daemon.learner.method} has forgotten {steps} steps and begins anew")

    def save(self) -> Done:
        """Settle now, and save what was learned."""
        daemon = self._daemon
        if daemon.scribe.checkpoint is None:
            return Done(done=False, words='no state is saved anywhere: checkpoint.kind is "none"')
        timeout_s = daemon.config.settle.timeout_s
        daemon.scribe.hasten(timeout_s)
        try:
            daemon.close_gaps()
            daemon.settle()
        except DeliveryError as fault:
            daemon.read_again(fault)
        if daemon.scribe.kept(daemon.progress.learned, timeout_s):
            return Done(done=True, words=f"the state is saved, at step {daemon.learner.step}")
        return Done(done=False, words="the state could not be saved; the log says why")
