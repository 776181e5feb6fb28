"""
What outlives a process: the journal of a run, its folder, and a target's lock, register and history.

An intent is durable before its request leaves. The memory of what was issued is never dropped or guessed.
"""
