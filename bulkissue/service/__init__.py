"""
The loyalty service's API: how each request is built, how each answer is read, how it is read back.

Pure: no clock, socket, file or environment. It says what an answer states, and never what may be sent again.
"""
