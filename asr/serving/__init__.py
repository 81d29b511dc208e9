"""The recogniser as a service: OpenAI's transcription API, one page, health and metrics."""
