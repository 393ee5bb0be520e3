"""Corpora that the project makes itself, so that nothing needs to be downloaded."""
