"""The commands as functions that other programs can call; the only package that uses Hydra."""
