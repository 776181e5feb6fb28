"""
The job file: its model, its layers of settings, its problems in words, and the credentials beside it.

A secret never becomes part of the job, a message or a log.
"""
