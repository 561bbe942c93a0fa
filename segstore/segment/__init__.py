"""The files of a log: the segments, each a data file with its index, and the tail.

Takes plain arguments, never the configuration; knows one segment at a time, never the log.
"""
