"""Data set distillation: a few synthetic images that train a network well."""
