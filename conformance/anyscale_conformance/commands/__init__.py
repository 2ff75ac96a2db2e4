"""One module per group of verbs of the command line; each is imported when its verb is called."""
