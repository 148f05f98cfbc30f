"""Rules over generated values; no sockets."""
