"""`fastreg train`: configuration, set-up, objective, loop, records."""
