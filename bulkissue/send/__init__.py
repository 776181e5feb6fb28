"""
Batches become answers: dispatch, guards, pace, the retry rule and the verdict.

A row is sent again only where the verdict proves that its last sending was void. The only package that imports
tenacity.
"""
