"""Encoders (x -> features) and decoders (z -> features)."""
