"""What the daemon shows by HTTP."""
