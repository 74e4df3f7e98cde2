"""The server: one engine for both halves, and over it one file for each dialect that clients speak."""
