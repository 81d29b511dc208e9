"""What the processor can do and numba has no name for."""
