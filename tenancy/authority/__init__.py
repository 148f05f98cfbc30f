"""The certificate authority: one root, three intermediates."""
