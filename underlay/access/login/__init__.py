"""How the operator gets in, beside the way: the key that is used, people's own ssh configuration, and sudo."""
