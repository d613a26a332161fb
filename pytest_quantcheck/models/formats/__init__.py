"""Formats of quantized weights: how each is recognised, loaded and read back as plain numbers."""
