"""What is between the hosts: neighbours, packets that were followed, connections that fail."""
