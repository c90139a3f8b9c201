"""Replaying labeled images through the daemon, in memory, to see what each method would do to them."""
