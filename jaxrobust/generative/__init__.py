"""Generative models of images: schedules, denoisers, training, sampling, quality."""
