"""Attacks in pixel space: the ascent that training and evaluation share, and PGD for evaluation."""
