"""The recogniser as a service: OpenAI's transcription API, streaming, a web page, health and metrics."""
