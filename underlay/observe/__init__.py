"""What a site is: the state and health of hosts, flows that were really made, differences from the plan."""
