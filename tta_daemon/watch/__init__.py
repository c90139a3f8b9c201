"""What the daemon knows about itself: metrics, accuracy, drift."""
