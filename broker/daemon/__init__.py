"""What every daemon of ours is made of: how it ends, its background tasks, its waits."""
