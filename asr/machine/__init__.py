"""What the processor and the system can do and Python has no name for."""
