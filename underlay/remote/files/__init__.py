"""Files of a host: gathered for a colleague to read, or brought back from a backup."""
