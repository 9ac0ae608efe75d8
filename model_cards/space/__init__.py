"""The demo page, a program of its own: it uses the packages as any other user of the installed Casita does."""
