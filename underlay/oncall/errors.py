"""What a command of the person on call could not do."""


class OncallError(Exception):
    """`str()` is one line for a person: what, where, how to mend it."""
