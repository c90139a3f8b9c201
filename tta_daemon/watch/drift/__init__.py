"""How far a stream is from the source, how far chance alone would put it, and which of the two has happened."""
