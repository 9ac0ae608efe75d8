"""The demo page, a program of its own: it uses the rooms as any other user of the installed package does."""
