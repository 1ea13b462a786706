"""Readers, writers and converters of scenes."""
