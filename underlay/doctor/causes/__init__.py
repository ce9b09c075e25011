"""The causes that the doctor knows: each function looks for some kinds of them and yields what it finds. Pure.

They raise UnreadableError for a part of a host's state that could not be read.
"""
