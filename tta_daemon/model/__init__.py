"""The deployed model: from its files to a frozen classifier."""
