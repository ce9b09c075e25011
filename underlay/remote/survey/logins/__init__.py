"""Who gets into this host: why an account does not (`refused`), and who else may (`others`)."""
