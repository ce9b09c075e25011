"""From hosts that exist to a plan: what is seen, what is guessed of it, the plan that is proposed, what is lacking."""
