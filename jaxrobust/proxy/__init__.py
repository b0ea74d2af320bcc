"""Proxy distributions: how far generated images are from real ones, and what that
bounds."""
