"""Vision-language and reasoning feature extractors."""
