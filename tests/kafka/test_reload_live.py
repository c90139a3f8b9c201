"""A daemon process under steady load is reloaded all the time: nothing is lost, repeated or forgotten."""

import pytest
from trials.reload_soak import Soak

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

RELOADS = 6  # of each kind; `scripts/reloads` does hundreds


def test_a_running_daemon_is_reloaded(broker, tmp_path):
    report = Soak(broker.bootstrap, tmp_path, RELOADS, calm_s=0.1, seed=192).run()
    assert (report.lost, report.repeated, report.undelivered, report.rebalances) == (0, 0, 0, 0)
    assert report.dead_letters
    assert report.same_state
    assert report.same_answers == report.compared > 0
    drawn = report.parts["neutral"].reloads, report.parts["any"].reloads
    for result in ("applied", "refused"):
        assert report.counted[f'tta_config_reloads_total{{result="{result}"}}'] >= sum(part[result] for part in drawn)
