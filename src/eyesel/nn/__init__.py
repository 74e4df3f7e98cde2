"""What both halves are made of: one attention, one toolbox of layers. Imports torch and nothing else."""
