"""Features of the processor and the operating system that Python does not expose."""
