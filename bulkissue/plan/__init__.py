"""
Every row is settled before anything is sent, or stands in exactly one batch.

Pure: the same input, job, history and versions give the same plan, byte for byte. It never reads a clock, the
environment or the network.
"""
