"""What fits and who runs where: threads, memory and devices."""
