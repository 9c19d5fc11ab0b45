"""The web page on which people rank: server, store, pictures, static files."""
