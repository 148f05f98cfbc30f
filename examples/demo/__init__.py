"""The demo: two hospitals' studies on real signals, from certificates to a trained model."""
