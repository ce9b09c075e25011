"""What the person on call uses: see, understand and fix the site. One module a command, `tasks` has their names."""
