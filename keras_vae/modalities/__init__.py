"""Kinds of data: how raw records become x and x becomes a record again."""
