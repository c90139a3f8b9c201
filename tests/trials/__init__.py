"""Long trials of delivery: `scripts/chaos`, `scripts/outage` and `scripts/soak` run them, tests run short ones."""
