"""
Transport and sign-in: the only package that knows an HTTP library.

It says of every request truthfully whether it was not sent, may have been sent, or was answered. It never sends a
request again, and never judges what an answer means.
"""
