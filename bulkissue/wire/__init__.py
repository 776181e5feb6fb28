"""
The wire: how requests leave, under whose name, how fast, and which of them again.

Nothing here knows an endpoint, a batch or the journal, and nothing outside of it knows httpx or tenacity.
"""
