"""From a prompt to token ids."""
