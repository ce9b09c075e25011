"""What people are shown: tables, pictures, and the page about the whole site."""
