"""What the person on call uses: see, understand and fix the site."""
