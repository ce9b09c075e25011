"""Files put in place: one that is checked first, a whole folder."""
