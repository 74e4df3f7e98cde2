"""Observers and editors of attention, handed to a model as its `tap` argument."""
