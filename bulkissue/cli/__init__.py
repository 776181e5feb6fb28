"""
The command line: options become one frozen value, one call is made, the result is printed, the exit code is set.

No rule about rows, sending or settling stands here. `main.entry` is the program; `summary` prints for people and
`json_output` for scripts.
"""
