"""The language of prompts, and from texts to token ids."""
