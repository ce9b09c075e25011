"""Changes of one thing: a published host, the operator's key, announcements."""
