"""The SDK: a client of the platform's REST interface. Its names are those of `wardstream`."""
