"""How the daemon is steered: its settings, its state on disk, its pages."""
