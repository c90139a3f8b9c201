"""What runs beside the daemon, not in it: preparing, replaying, demonstrating."""
