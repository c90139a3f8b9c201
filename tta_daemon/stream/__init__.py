"""Records in, answers out: the daemon's border to the log it reads and the log it writes."""
