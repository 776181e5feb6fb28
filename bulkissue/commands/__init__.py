"""
One function for each command, callable without the command line.

Commands hold the target's lock and tie the phases together. They never print, ask on a terminal, or exit: what is
asked and told comes in as arguments.
"""
