"""What each command does, as functions that other programs can call; the only room that knows Hydra."""
