"""Rules of pure modules; no sockets."""
