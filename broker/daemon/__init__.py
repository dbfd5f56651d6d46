"""What every daemon of ours is made of: its start and its end, settings, log, background tasks and waits."""
