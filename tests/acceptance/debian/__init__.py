"""Tests that need a program of Debian's: none is in a wheel, so CI installs them and a fresh machine goes without."""
