"""What learns: networks, losses, checkpoints."""
