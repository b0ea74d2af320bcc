"""Recipes: one short file for each experiment, data only."""
