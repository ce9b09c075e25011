"""What follows from the plan: rules, addresses, routes, files, packages, units, expected traffic. Pure."""
