"""The site as a whole: plan, deploy, verify, drift, history."""
