"""Many streams in one process: each its own state, one network, and whatever room there is."""
