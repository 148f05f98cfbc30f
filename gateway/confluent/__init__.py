"""The surface that Confluent's clients expect."""
