"""Parts of a plan that have rules of their own: what is wrong with them, what follows from them. Pure."""
