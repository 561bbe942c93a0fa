"""The log: many segments, one writer, any number of readers."""
