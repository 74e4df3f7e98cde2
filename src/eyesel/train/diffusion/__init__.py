"""Fine-tuning of the painter: `fit.fit_diffusion` is the whole of it, read from there."""
