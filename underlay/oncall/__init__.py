"""What the person on call uses: see, understand and mend the site. One module a command, `tasks` has their names."""
