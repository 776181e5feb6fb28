"""
Files become rows of text, and rows become identifiers or a reason why not.

Every value is text as it stood in the file, and a value that was lost or guessed is never taken for a clean one.
Nothing here knows what was issued before, or sends anything.
"""
