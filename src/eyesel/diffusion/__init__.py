"""The mathematics of denoising: schedules, predictions, guidance, solvers. Imports torch and knows no network."""
